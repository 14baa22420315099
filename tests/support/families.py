"""Tiny random models of every family that the installed transformers and vLLM both have.

Families come from both registries; vLLM's is read as text, because importing vLLM takes long.
A tiny configuration is the family's default one with its sizes replaced by small ones.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

VOCABULARY = 64
FIRST_SPECIAL = 48  # tokens of pictures and the like have ids from here on
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
VLLM_TABLES = ("_TEXT_GENERATION_MODELS", "_MULTIMODAL_MODELS", "_TRANSFORMERS_SUPPORTED_MODELS")
LAYERS = 4
# Sizes by the names that configurations give them; heads are as small as vLLM's CPU attention has.
SIZES: dict[str, object] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "word_embed_proj_dim", "embed_dim"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "depth"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads"), 2),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "n_head_kv"), 1),
    **dict.fromkeys(("head_dim", "swa_head_dim", "kv_channels", "v_head_dim"), 32),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 256),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk", "moe_top_k"), 2),
    **dict.fromkeys(("num_experts_per_token",), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 64),
    **dict.fromkeys(("expert_ffn_hidden_size", "moe_shared_expert_intermediate_size"), 64),
    **dict.fromkeys(("shared_intermediate_size", "intermediate_size_mlp"), 64),
    **dict.fromkeys(("dense_intermediate_size", "share_expert_dim"), 64),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"), 1),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "num_dense_layers"), 1),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "o_lora_rank", "adapter_rank"), 32),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "rotary_dim"), 16),
    "qk_head_dim": 32,
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), 32),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "linear_num_heads"), 2),
    **dict.fromkeys(("index_head_dim", "index_n_heads"), 32),
    "index_topk": 256,
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size"), 16),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "mamba_headdim"), 32),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads"), 4),
    **dict.fromkeys(("n_groups", "mamba_n_groups", "mamba_ngroups"), 1),
    **dict.fromkeys(("time_step_rank", "mamba_dt_rank"), 8),
    "mamba_d_ssm": 128,
    **dict.fromkeys(("swa_num_attention_heads", "num_sliding_attention_heads"), 2),
    "swa_num_key_value_heads": 1,
    **dict.fromkeys(("hidden_size_per_layer_input", "laurel_rank", "ple_embed_dim"), 32),
    "num_kv_shared_layers": 0,
    **dict.fromkeys(("sliding_window", "attention_chunk_size", "sliding_window_size"), 16),
    **dict.fromkeys(("zero_expert_num",), 2),
    "hc_lowrank": 8,
    "rel_extent": 64,
}
VISION_SIZES: dict[str, object] = {
    **dict.fromkeys(("hidden_size", "embed_dim", "intermediate_size"), 64),
    **dict.fromkeys(("num_hidden_layers", "depth", "n_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "num_heads"), 2),
    **dict.fromkeys(("out_hidden_size", "text_hidden_size", "projection_dim"), 64),
    **dict.fromkeys(("projector_input_dim", "projector_output_dim", "vision_output_dim"), 64),
}


def _sections(*sizes: int) -> dict[str, object]:
    """Rotary positions in three dimensions, which halve a head between them."""
    return {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(sizes)}


# What a family needs besides, because its default has other names or another form of them.
EQUAL_HEADS: dict[str, object] = {"num_key_value_heads": 2}  # latent attention has no groups
HEAD: dict[str, object] = {"head_dim": 32}
LATENT = EQUAL_HEADS | {"head_dim": 16}
FIRST_DENSE: dict[str, object] = {
    "first_k_dense_replace": 1,
    "mlp_layer_types": ["dense"] + ["sparse"] * (LAYERS - 1),
}
HYBRID: dict[str, object] = {
    "layer_types": ["conv", "full_attention"] * (LAYERS // 2),
    **dict.fromkeys(("conv_dim", "block_dim"), 64),
}
PARTICULAR: dict[str, dict[str, object]] = {
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "deepseek_v32", "glm_moe_dsa"), LATENT),
    **dict.fromkeys(("kimi_linear", "minicpm3", "glm5_next.text_config", "zamba2"), EQUAL_HEADS),
    **dict.fromkeys(("hunyuan_v1_dense", "hunyuan_v1_moe", "glm4_moe"), HEAD),
    **dict.fromkeys(("lfm2", "lfm2_moe", "lfm2_vl.text_config"), HYBRID),
    # What vLLM reads, and transformers' own classes have no default or no free choice for.
    "afmoe": {"score_func": "sigmoid", "route_norm": True, "n_group": 1, "topk_group": 1},
    "axk1": LATENT | {"first_k_dense_replace": 0},
    "falcon": {"ffn_hidden_size": 256},
    "exaone4_5.vision_config": {"num_key_value_heads": 2},
    "gemma4": {
        "vision_config": {
            **{"model_type": "gemma4_vision", "head_dim": 32, "position_embedding_size": 64},
            **dict.fromkeys(("hidden_size", "intermediate_size"), 64),
            **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "num_hidden_layers"), 2),
        }
    },
    "gemma4_unified": {
        "vision_config": {
            **{"model_type": "gemma4_unified_vision", "mm_posemb_size": 64},
            **dict.fromkeys(("mm_embed_dim", "output_proj_dims"), 64),
        }
    },
    "glm4_moe_lite": LATENT | FIRST_DENSE,
    "hy_v3": FIRST_DENSE
    | {"expert_hidden_dim": 64}
    | dict.fromkeys(("route_norm", "qk_norm"), True),
    "longcat_flash": LATENT
    | {"mla_scale_q_lora": True, "mla_scale_kv_lora": True, "zero_expert_type": "identity"},
    "mimo_v2_flash": {
        **dict.fromkeys(("hybrid_layer_pattern", "moe_layer_freq"), [0, 1] * (LAYERS // 2)),
        **dict.fromkeys(("swa_head_dim", "swa_v_head_dim"), 32),
        **{"swa_num_attention_heads": 2, "swa_num_key_value_heads": 1, "layernorm_epsilon": 1e-5},
        "sliding_window_size": 16,
    },
    "minimax_m2": {"rotary_dim": 16, "scoring_func": "sigmoid"},
    "dbrx": {
        "attn_config": {"kv_n_heads": 1, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "ernie4_5_vl_moe.text_config": {"moe_intermediate_size": [64, 64]},
    "granite4_vision.text_config": {"model_type": "granite"},
    "mamba2": {"num_heads": 4},
    "minimax_m3_vl.vision_config": {
        "img_token_compression_config": {"temporal_patch_size": 2, "spatial_merge_size": 2}
    },
    "muse_glimmer.vision_config": {"output_dim": 256},
    "nemotron": {"head_dim": 32, "num_key_value_heads": 1},
    "nemotron_h_omni.vision_config": {"video_temporal_patch_size": 2},
    "phi3": {"pad_token_id": 0},
    "qwen3_vl_moe.text_config": {"norm_topk_prob": True},
    "step3p7.text_config": {"sliding_window": 16},
}
for vision_type in ("qwen2_vl", "qwen2_5_vl", "paddleocr_vl"):
    PARTICULAR[f"{vision_type}.text_config"] = {"rope_parameters": _sections(4, 6, 6)}
PARTICULAR["hunyuan_vl.text_config"] = HEAD | {
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 4, 4, 4]}
}
for vision_type in ("glm4v", "glm4v_moe", "glm_ocr"):  # which turn half of a head
    PARTICULAR[f"{vision_type}.text_config"] = HEAD | {
        "rope_parameters": _sections(2, 3, 3) | {"partial_rotary_factor": 0.5}
    }
PARTICULAR["glm4v_moe.text_config"]["use_qk_norm"] = False
PARTICULAR["deepseek_v3"] = LATENT | {"topk_method": "noaux_tc"}  # as released ones say
PARTICULAR["deepseek_v2"] = LATENT | {"num_experts_per_tok": 2}


@dataclass(frozen=True)
class Family:
    """A model type of transformers, its class, and whether that class takes pictures."""

    model_type: str
    architecture: str
    vision: bool


def vllm_architectures() -> set[str]:
    """Class names that the installed vLLM can generate text with."""
    return {name for table in VLLM_TABLES for name in _vllm_table(table)}


def given_up() -> dict[str, str]:
    """Families of transformers that vLLM had until the version named."""
    until = _vllm_table("_PREVIOUSLY_SUPPORTED_MODELS")
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES | MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return {family: until[name] for family, name in sorted(known.items()) if name in until}


def _vllm_table(name: str) -> dict[str, str]:
    """A table of vLLM's registry: class names, with their versions where it has some."""
    package = find_spec("vllm")
    assert package is not None and package.origin is not None, "vLLM is not installed"
    file = Path(package.origin).parent / "model_executor/models/registry.py"
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.AnnAssign | ast.Assign) and isinstance(node.value, ast.Dict):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if [target.id for target in targets if isinstance(target, ast.Name)] == [name]:
                pairs = zip(node.value.keys, node.value.values, strict=True)
                return {
                    str(key.value): str(value.value) if isinstance(value, ast.Constant) else ""
                    for key, value in pairs
                    if isinstance(key, ast.Constant)
                }
    raise AssertionError(f"vLLM's registry has no table {name}")


def families() -> list[Family]:
    """Every family that both have: language models, then vision-language models."""
    known = vllm_architectures()
    text, vision = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return [
        Family(model_type, architecture, names is vision)
        for names in (text, vision)
        for model_type, architecture in sorted(names.items())
        if architecture in known and not (names is text and vision.get(model_type) == architecture)
    ]


def tiny_config(family: Family) -> PretrainedConfig:
    """The family's default configuration with small sizes, of its sub-configurations too."""
    cls = CONFIG_MAPPING[family.model_type]
    config = cls(**_small(cls, SIZES, family.model_type))
    mapping = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING if family.vision else MODEL_FOR_CAUSAL_LM_MAPPING
    if type(config) not in mapping:
        raise ValueError(f"{type(config).__name__} has no class in the mapping")
    if not family.vision and mapping[type(config)].config_class is not type(config):
        config = config.get_text_config()  # the language model of a vision-language family
    return config


def tiny_model(family: Family) -> PreTrainedModel:
    """A random model of a family, with weights so large that predictions differ."""
    config = tiny_config(family)
    mapping = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING if family.vision else MODEL_FOR_CAUSAL_LM_MAPPING
    torch.manual_seed(0)
    model = mapping[type(config)](config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    model.generation_config = GenerationConfig()
    return model


def save_tiny(family: Family, folder: Path) -> Path:
    """Write a family's tiny model into a folder, with the names that released weights have.

    A model that was not loaded is saved without the prefixes that loading takes away. Those of a
    language model are of the release with pictures, which has another class.
    """
    model = tiny_model(family)
    if family.vision:
        model._weight_conversions = get_model_conversion_mapping(model, add_legacy=False)
    model.save_pretrained(folder)
    return folder


def _small(cls: type[PretrainedConfig], sizes: dict[str, object], name: str) -> dict[str, Any]:
    """Keywords that make a small configuration of a class."""
    default = cls()
    values: dict[str, Any] = {}
    for key, value in vars(default).items():
        if isinstance(value, PretrainedConfig):
            inside = SIZES if "text" in key or "llm" in key else VISION_SIZES
            part = _small(type(value), inside, f"{name}.{key}")
            values[key] = {"model_type": value.model_type} | part
        elif key in sizes and value is not None:
            values[key] = sizes[key]
        elif key.endswith(("token_id", "token_index")) and isinstance(value, int | list):
            values[key] = TOKENS.get(key, FIRST_SPECIAL + len(values) % 16)
    values |= PARTICULAR.get(name, {})
    for key, value in vars(default).items():  # one entry for each layer
        layers = getattr(default, "num_hidden_layers", None)
        many = isinstance(value, list | tuple) and len(value) == layers
        if many and key not in values and "num_hidden_layers" in values:
            values[key] = _some_of_each(list(value), values["num_hidden_layers"])
    rope = getattr(default, "rope_parameters", None)
    if isinstance(rope, dict) and "mrope_section" in rope:
        half = int(values.get("head_dim", 32) * rope.get("partial_rotary_factor", 1.0)) // 2
        sections = [half * size // sum(rope["mrope_section"]) for size in rope["mrope_section"]]
        sections[-1] += half - sum(sections)
        values["rope_parameters"] = rope | {"mrope_section": sections}
    return values


def _some_of_each(entries: list[object], count: int) -> list[object]:
    """As many entries as `count`, one of each kind first."""
    kinds = list({str(entry): entry for entry in entries}.values())
    return (kinds + entries)[:count]
