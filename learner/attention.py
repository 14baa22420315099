"""Which implementation of attention a model computes (`model.attention`)."""

from __future__ import annotations

from importlib.util import find_spec

from transformers import PreTrainedModel

from configs.schema import FLASH_ATTENTION, GPU_ATTENTION, ModelConfig

PACKAGES = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}


def attention_of(
    model: type[PreTrainedModel], cfg: ModelConfig, *, gpu: bool, packages: bool = True
) -> str:
    """The implementation, as transformers names it.

    Args:
        model: the model's class.
        cfg: attention and dtype are read.
        gpu: whether the learner has GPUs.
        packages: whether this process has the learner's packages; False does not look for them.

    Raises:
        ValueError: the requested one cannot run here, or the class does not have it.
    """
    key = f"model.attention={cfg.attention}"
    supported = implementations(model)
    if cfg.attention == "auto":
        flash = cfg.dtype == "bfloat16" and gpu and find_spec(PACKAGES["flash_attention_2"])
        best = ("flash_attention_2", "sdpa") if flash else ("sdpa",)
        return next((name for name in best if name in supported), "eager")
    if cfg.attention not in supported:
        raise ValueError(f"{key}: {model.__name__} has {', '.join(supported)} only")
    if cfg.attention in GPU_ATTENTION and not gpu:
        raise ValueError(f"{key} trains on GPUs only, and the learner has none")
    package = PACKAGES.get(cfg.attention)
    if package and packages and find_spec(package) is None:
        raise ValueError(f"{key} needs the package {package}, which is not installed")
    return cfg.attention


def implementations(model: type[PreTrainedModel]) -> list[str]:
    """The implementations that a class has."""
    names = ["eager"]
    if model._supports_sdpa:
        names.append("sdpa")
    if model._supports_flash_attn:
        compatible = model._compatible_flash_implementations or FLASH_ATTENTION
        names += [name for name in FLASH_ATTENTION if name in compatible]
    if model._supports_flex_attn:
        names.append("flex_attention")
    return names
