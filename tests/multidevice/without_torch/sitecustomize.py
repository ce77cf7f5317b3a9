"""What Python imports first in processes that tests/multidevice/start.py starts for the product's commands.

transformers then takes itself to be where PyTorch is not installed, as it is for most users, and imports faster.
"""

import sys

sys.modules["torch"] = None
import transformers  # noqa: E402

assert not transformers.is_torch_available()  # which it remembers
del sys.modules["torch"]
