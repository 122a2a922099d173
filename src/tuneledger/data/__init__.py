"""Reading labelled texts in any format, splitting and auditing them; knows nothing of models."""
