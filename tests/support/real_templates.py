"""Chat templates of public models, each with its control tokens on a small tokenizer.

The files in `chat_templates` write what the models' own templates write for messages of text;
their branches for tools and documents are left out.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

FOLDER = Path(__file__).with_name("chat_templates")
PIECES = (  # of Llama 3's tokenizer, and of Qwen's but for the digits
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CORPUS = [
    "Which numbers make 24? 8 * 3 = 24, and 12 + 12 = 24. Try again: the answer is not legal.",
    "USER: hello there ASSISTANT: Hi! GPT4 Correct User: System: [INST] one two three [/INST]",
    "<|user|> <|assistant|> <|system|> You are a helpful assistant. Today's date is 26 Jul 2024.",
    "user\nassistant\nsystem\nmodel\n\n## Metadata\n\nBe brief.\n",
    "A or B or C? It is C C C C.\n\nThen C.\n\nNot D.\n\n\nC\n\n\nD",
    "Turn left at the next intersection, then move forward until you reach the destination.",
]


@dataclass(frozen=True)
class RealTemplate:
    """A template, and what a model folder says of its tokens.

    special: control tokens; `added` ones are not marked as special, `stripping` ones take the
        blanks after them.
    eos, bos, pad: of the tokenizer.
    stops: more of generation_config.json.
    sentencepiece: words begin with a blank of their own, as in the tokenizer of Llama 2.
    """

    name: str
    eos: str
    special: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    stripping: tuple[str, ...] = ()
    bos: str | None = None
    pad: str | None = None
    stops: tuple[str, ...] = ()
    sentencepiece: bool = False

    def tokenizer(self):
        """A small tokenizer with the tokens and the template of the model."""
        tokens = [*filter(None, [self.bos, self.eos, self.pad]), *self.special, *self.stops]
        base = Tokenizer.from_str(_trained(self.sentencepiece))
        special = [
            AddedToken(token, special=True, normalized=False, rstrip=token in self.stripping)
            for token in dict.fromkeys(tokens)
        ]
        base.add_special_tokens(special)
        base.add_tokens([AddedToken(t, special=False, normalized=False) for t in self.added])
        named = {"bos_token": self.bos, "eos_token": self.eos, "pad_token": self.pad}
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=base,
            name_or_path=self.name,
            clean_up_tokenization_spaces=False,
            **{name: token for name, token in named.items() if token},
        )
        tokenizer.chat_template = (FOLDER / f"{self.name}.jinja").read_text()
        return tokenizer

    def stop_ids(self, tokenizer):
        """What the model folder says of the end of an answer."""
        return tokenizer.convert_tokens_to_ids([self.eos, *self.stops])


@cache
def _trained(sentencepiece):
    if sentencepiece:
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
        tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
        alphabet = []
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(PIECES), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        tokens, alphabet = [], sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=tokens, initial_alphabet=alphabet, show_progress=False
    )
    words = (word for text in CORPUS for word in text.split()) if sentencepiece else CORPUS
    tokenizer.train_from_iterator(words, trainer)
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = []  # bytes are tokens like all others
    return json.dumps(state)


IM = ("<|im_start|>", "<|im_end|>")
THINK = ("<think>", "</think>")
HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>", "<|python_tag|>")
LLAMA = {"bos": "<s>", "eos": "</s>", "sentencepiece": True}
LLAMA3 = {"bos": "<|begin_of_text|>", "eos": "<|eot_id|>", "special": HEADERS}
MISTRAL = {"bos": "<s>", "eos": "</s>", "special": ("[INST]", "[/INST]", "[TOOL_CALLS]")}
GEMMA = {"bos": "<bos>", "eos": "<eos>", "pad": "<pad>", "stops": ("<end_of_turn>",)}
QWEN = {"eos": "<|im_end|>", "pad": "<|endoftext|>", "stops": ("<|endoftext|>",), "special": IM}
PHI3 = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
DEEPSEEK = {
    "bos": "<｜begin▁of▁sentence｜>",
    "eos": "<｜end▁of▁sentence｜>",
    "added": ("<｜User｜>", "<｜Assistant｜>", *THINK),
}
TURN = "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"
COHERE = (*TURN, "<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>")
GLM = ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
ROLE = ("<|start_of_role|>", "<|end_of_role|>")
HARMONY = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>")

TEMPLATES = [
    RealTemplate("llama-2", **LLAMA),
    RealTemplate("llama-3", **LLAMA3, stops=("<|end_of_text|>",)),
    RealTemplate("llama-3.2", **LLAMA3, stops=("<|end_of_text|>", "<|eom_id|>")),
    RealTemplate(
        "llama-4",
        eos="<|eot|>",
        bos="<|begin_of_text|>",
        special=("<|header_start|>", "<|header_end|>"),
        stops=("<|end_of_text|>", "<|eom|>"),
    ),
    RealTemplate("mistral-v0.1", **LLAMA),
    RealTemplate("mistral-v0.3", **MISTRAL, sentencepiece=True),
    RealTemplate("mistral-nemo", **MISTRAL),
    RealTemplate(
        "mistral-small-3",
        **MISTRAL | {"special": (*MISTRAL["special"], "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")},
    ),
    RealTemplate("gemma-2", **GEMMA, special=("<start_of_turn>",)),
    RealTemplate("gemma-3", **GEMMA, special=("<start_of_turn>",)),
    RealTemplate("qwen2", **QWEN),
    RealTemplate("qwen2.5", **QWEN, added=("<tool_call>", "</tool_call>")),
    RealTemplate("qwen3", **QWEN, added=(*THINK, "<tool_response>", "</tool_response>")),
    RealTemplate("qwen3-thinking", **QWEN, added=THINK),
    RealTemplate("chatml", eos="<|endoftext|>", special=IM),
    RealTemplate(
        "phi-3",
        eos="<|endoftext|>",
        special=PHI3,
        stripping=PHI3,
        sentencepiece=True,
        stops=("<|end|>",),
    ),
    RealTemplate(
        "phi-4", eos="<|im_end|>", bos="<|endoftext|>", special=("<|im_start|>", "<|im_sep|>")
    ),
    RealTemplate("smollm2", eos="<|im_end|>", bos="<|im_start|>", special=("<|endoftext|>",)),
    RealTemplate("smollm3", eos="<|im_end|>", special=IM, added=THINK),
    RealTemplate("deepseek-v3", **DEEPSEEK),
    RealTemplate("deepseek-r1", **DEEPSEEK),
    RealTemplate("zephyr", **LLAMA),
    RealTemplate("command-r", eos=TURN[1], bos="<BOS_TOKEN>", pad="<PAD>", special=COHERE),
    RealTemplate("olmo-2", eos="<|endoftext|>", bos="<|endoftext|>", pad="<|pad|>"),
    RealTemplate("granite-3.3", eos="<|end_of_text|>", special=ROLE),
    RealTemplate("falcon", eos="<|endoftext|>"),
    RealTemplate("falcon-3", eos="<|endoftext|>", special=("<|user|>", "<|assistant|>")),
    RealTemplate("yi-1.5", eos="<|im_end|>", special=IM, sentencepiece=True),
    RealTemplate("internlm2", eos="</s>", bos="<s>", special=IM, stops=("<|im_end|>",)),
    RealTemplate("glm-4", eos="<|endoftext|>", special=GLM, stops=("<|user|>", "<|observation|>")),
    RealTemplate("gpt-oss", eos="<|return|>", special=HARMONY, stops=("<|call|>",)),
    RealTemplate("vicuna-1.5", **LLAMA),
    RealTemplate("openchat-3.5", **LLAMA | {"eos": "<|end_of_turn|>"}, special=("</s>",)),
]
BY_NAME = {template.name: template for template in TEMPLATES}
