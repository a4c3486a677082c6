"""Fields that clients know and that are refused by name, with the values that ask for nothing; null passes.

A field that would change the reply is never ignored, whichever server it was written for.
"""

from typing import Any

Refused = dict[str, tuple[Any, ...]]
"""Field -> its harmless values."""

OPENAI: Refused = {
    "audio": (),
    "function_call": ("none",),
    "functions": ([],),
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": (),
    "prompt_cache_key": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": (),
    "response_format": ({"type": "text"},),
    "tool_choice": ("none",),
    "tools": ([],),
    "verbosity": (),
    "web_search_options": (),
}

OTHERS: Refused = {
    # vLLM
    "allowed_token_ids": ([],),
    "bad_words": ([],),
    "cache_salt": (),
    "chat_template": (),
    "documents": ([],),
    "guided_choice": (),
    "guided_decoding_backend": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_whitespace_pattern": (),
    "include_stop_str_in_output": (False,),
    "kv_transfer_params": (),
    "length_penalty": (1,),
    "logits_processors": ([],),
    "mm_processor_kwargs": ({},),
    "priority": (0,),
    "prompt_logprobs": (),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "structural_tag": (),
    "structured_outputs": (),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "vllm_xargs": ({},),
    # SGLang, llama.cpp, Ollama, TGI
    "dry_multiplier": (0,),
    "dynatemp_range": (0,),
    "ebnf": (),
    "format": (),
    "grammar": (),
    "json_schema": (),
    "lora": ([],),
    "lora_path": (),
    "max_length": (),
    "max_new_tokens": (),
    "mirostat": (0,),
    "n_predict": (),
    "no_stop_trim": (False,),
    "num_ctx": (),
    "num_predict": (),
    "options": ({},),
    "regex": (),
    "repeat_penalty": (1,),
    "samplers": (),
    "tfs_z": (1,),
    "top_a": (0,),
    "typical_p": (1,),
    "xtc_probability": (0,),
}

CHAT: Refused = {
    "add_special_tokens": (False,),
    "best_of": (1,),
    "echo": (False,),
    "prompt": (),
    "suffix": ("",),
}
COMPLETION: Refused = {
    "add_generation_prompt": (True,),
    "add_special_tokens": (True,),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "messages": (),
    "reasoning_effort": (),
    "top_logprobs": (),
}
HARMLESS = frozenset(
    {
        "cache_prompt",  # llama.cpp
        "id_slot",
        "keep_alive",  # Ollama
        "request_id",  # vLLM
        "timings_per_token",  # llama.cpp
    }
)
"""Known fields that change no reply; any other unknown field is refused, as OpenAI does."""
INSTEAD = {
    "max_length": "max_tokens",
    "max_new_tokens": "max_tokens",
    "n_predict": "max_tokens",
    "num_predict": "max_tokens",
    "repeat_penalty": "repetition_penalty",
}
"""The name under which this server takes what a field asks for."""
