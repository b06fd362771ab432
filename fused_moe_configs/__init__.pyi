from .api import cache_clear as cache_clear
from .api import explain as explain
from .api import export as export
from .api import get_config as get_config
from .api import get_moe_configs as get_moe_configs
from .api import where as where
from .lookup import ConfigEntry as ConfigEntry
from .lookup import ConfigError as ConfigError
from .lookup import Lookup as Lookup
from .lookup import get_config_file_name as get_config_file_name

__version__: str
__all__ = [
    "ConfigEntry", "ConfigError", "Lookup", "__version__", "cache_clear", "explain", "export", "get_config",
    "get_config_file_name", "get_moe_configs", "where",
]  # fmt: skip
