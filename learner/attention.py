"""Which implementation of attention a model computes (`model.attention`)."""

from __future__ import annotations

from importlib.util import find_spec

from transformers import PreTrainedModel

from configs.schema import FLASH_ATTENTION, GPU_ATTENTION, RunConfig
from learner.ulysses import ULYSSES

PACKAGES = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}
FLASH_HEAD = 256  # the largest head of both


def attention_of(
    trunk: PreTrainedModel, cfg: RunConfig, *, gpu: bool, packages: bool = True
) -> str:
    """The implementation, as transformers names it.

    Args:
        trunk: the model, which may be empty (`empty_trunk`).
        cfg: model.attention, model.dtype and learner.packing are read.
        gpu: whether the learner has GPUs.
        packages: whether this process has the learner's packages; False does not look for them.

    Raises:
        ValueError: the requested one cannot run here, or would compute another model.
    """
    name, model = cfg.model.attention, type(trunk).__name__
    key = f"model.attention={name}"
    supported = implementations(type(trunk))
    if cfg.learner.sequence_parallel > 1:
        _check_shared_heads(trunk, cfg.learner.sequence_parallel, supported)
        return ULYSSES
    if name == "auto":
        flash = cfg.model.dtype == "bfloat16" and gpu and find_spec(PACKAGES["flash_attention_2"])
        # Rows of several sequences it tells apart in a microbatch of one row only.
        best = ("flash_attention_2",) if flash and cfg.learner.packing != "packed" else ()
        return next((n for n in (*best, "sdpa") if n in supported and not lacks(trunk, n)), "eager")
    if name not in supported:
        raise ValueError(f"{key}: {model} has {', '.join(supported)} only")
    if name in GPU_ATTENTION and not gpu:
        raise ValueError(f"{key} trains on GPUs only, and the learner has none")
    if missing := lacks(trunk, name):
        raise ValueError(f"{key}: {model} has {missing}")
    package = PACKAGES.get(name)
    if package and packages and find_spec(package) is None:
        raise ValueError(f"{key} needs the package {package}, which is not installed")
    return name


def _check_shared_heads(trunk: PreTrainedModel, ranks: int, supported: list[str]) -> None:
    """Refuse a model whose attention heads a group of ranks cannot share out."""
    key, model = f"learner.sequence_parallel={ranks}", type(trunk).__name__
    if getattr(trunk.config, "vision_config", None) is not None:
        raise ValueError(f"{key} shares out rows of text, and {model} sees pictures; it must be 1")
    if "sdpa" not in supported or lacks(trunk, "sdpa"):
        why = lacks(trunk, "sdpa") or f"{', '.join(supported)} only"
        raise ValueError(f"{key} computes attention by sdpa: {model} has {why}")
    text = trunk.config.get_text_config()
    heads = text.num_attention_heads
    keys = getattr(text, "num_key_value_heads", None) or heads
    if heads % ranks or keys % ranks:
        raise ValueError(
            f"{key} must divide the heads of {model}, {heads} of queries and {keys} of keys and "
            "values"
        )


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


def lacks(trunk: PreTrainedModel, implementation: str) -> str:
    """What a model has and an implementation that its class claims has not; "" if nothing."""
    cap = getattr(trunk.config.get_text_config(), "attn_logit_softcapping", None)
    if implementation == "sdpa" and cap:
        return f"attn_logit_softcapping={cap}, which sdpa would leave out; it needs eager"
    sizes = [getattr(module, "head_dim", None) for module in trunk.modules()]
    largest = max((size for size in sizes if isinstance(size, int)), default=0)
    if implementation in FLASH_ATTENTION and largest > FLASH_HEAD:
        return f"heads of {largest}, and flash attention takes up to {FLASH_HEAD}"
    return ""
