"""Tiny models of many families, as configs: what predictions are tried against.

The sizes are small enough to build each in a blink, and odd enough to tell the formulas apart: two
key-value heads for eight, a sliding window of 64, four experts.
"""

from typing import Any

_SIZES: dict[str, Any] = {
    "vocab_size": 1024,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}
_ALONE = {k: v for k, v in _SIZES.items() if k != "num_key_value_heads"}
_OLD = {"vocab_size": 1024, "n_embd": 256, "n_head": 8, "n_layer": 2, "n_positions": 512}
_WINDOW = {**_SIZES, "head_dim": 32, "sliding_window": 64}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
_LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
_LATENT = {
    **_SIZES,
    "num_key_value_heads": 8,
    "moe_intermediate_size": 64,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 64,
    "q_lora_rank": None,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "n_group": 1,
    "topk_group": 1,
}
_FALCON = {k: v for k, v in _ALONE.items() if k not in ("intermediate_size", "pad_token_id")}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": _SIZES,
    "llama, tied": {**_SIZES, "tie_word_embeddings": True},
    "mistral": {**_SIZES, "sliding_window": 64},
    "qwen2": _SIZES,
    "qwen3": {**_SIZES, "head_dim": 32},
    "gemma": {**_SIZES, "head_dim": 32},
    "gemma2": _WINDOW,
    "gemma3_text": {**_WINDOW, "num_hidden_layers": 6},
    "gemma3n_text": {
        **_WINDOW,
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "vocab_size_per_layer_input": 1024,
        "hidden_size_per_layer_input": 16,
        "laurel_rank": 8,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "activation_sparsity_pattern": [0.0] * 4,
        "intermediate_size": [512] * 4,
    },
    "phi": _SIZES,
    "phi3": _SIZES,
    "gpt2": _OLD,
    "gptj": {**_OLD, "rotary_dim": 16},
    "gpt_neox": _ALONE,
    "gpt_bigcode": {**_OLD, "multi_query": True},
    "opt": {**_ALONE, "ffn_dim": 512, "word_embed_proj_dim": 128},
    "bloom": {"vocab_size": 1024, "hidden_size": 256, "n_layer": 2, "n_head": 8},
    "falcon": {**_FALCON, "multi_query": True, "alibi": False},
    "falcon, new": {**_FALCON, "num_kv_heads": 2, "new_decoder_architecture": True},
    "mpt": {"vocab_size": 1024, "d_model": 256, "n_heads": 8, "n_layers": 2, "expansion_ratio": 2},
    "stablelm": _SIZES,
    "olmo": _SIZES,
    "olmo2": _SIZES,
    "cohere": _SIZES,
    "starcoder2": _SIZES,
    "granite": _SIZES,
    "smollm3": _SIZES,
    "glm": {**_SIZES, "head_dim": 32},
    "mixtral": {**_SIZES, **_LOCAL},
    "gpt_oss": {**_WINDOW, **_LOCAL, "layer_types": ["sliding_attention", "full_attention"]},
    "qwen2_moe": {**_SIZES, **_EXPERTS, "shared_expert_intermediate_size": 128},
    "qwen3_moe": {**_SIZES, **_EXPERTS, "head_dim": 32},
    "olmoe": {**_SIZES, **_EXPERTS},
    "deepseek_v2": _LATENT,
    "deepseek_v3": {**_LATENT, "q_lora_rank": 96},
    "mamba": {"vocab_size": 1024, "hidden_size": 128, "num_hidden_layers": 2, "state_size": 8},
    "lfm2": _SIZES,
}


def config(name: str) -> Any:
    """The config of one of `FAMILIES`."""
    from transformers import AutoConfig

    return AutoConfig.for_model(name.split(",")[0], **FAMILIES[name])
