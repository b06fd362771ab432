"""Tuned launch configs of the fused MoE Triton kernel, for any engine.

    get_config(64, E=8, N=3584)  # for 64 tokens on this machine's GPU; None: no file, use your own heuristic

Standard library only. A name is imported when it is first used; `__init__.pyi` tells type checkers what each is.
"""

__version__ = "2026.11.22"

_MODULES = {
    "ConfigEntry": "lookup",
    "ConfigError": "lookup",
    "Lookup": "lookup",
    "cache_clear": "api",
    "explain": "api",
    "export": "api",
    "get_config": "api",
    "get_config_file_name": "lookup",
    "get_moe_configs": "api",
    "where": "api",
}
__all__ = ["__version__", *_MODULES]


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    globals()[name] = value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    return value


def __dir__():
    return sorted({*globals(), *_MODULES})
