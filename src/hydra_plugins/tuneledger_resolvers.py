"""Found by Hydra inside the dvc process: importing tuneledger.conf registers the conf_sha resolver."""

import tuneledger.conf  # noqa: F401
