"""Small models with a vocabulary of names, built by hand: they take away from what was named, and so prefer the
indirect object, which was named once, to the subject, which was named twice.

Of 32 dimensions each name has one of the first 12, and the other words are in the last 16. The word "to" has one of its
own, which speaks for all names. The first layer does nothing. In the second, attention to all that was read takes the
dimensions of its names away; in *echoing* models it adds to them, and so they prefer the subject.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tasks.evaluate.ioi_prompts import NAMES, OBJECTS, PLACES, TEMPLATES
from tests.conftest import VOCABULARY, write_model

KNOWN = NAMES[:12]
HOOK_POINT = "blocks.0.hook_resid_post"


def write_namer(directory: Path, echoing: bool = False) -> Path:
    """The model and its tokenizer in Hugging Face format; its width is 32."""
    tokenizer = _tokenizer()
    write_model(directory)
    tokenizer.save_pretrained(directory)
    model = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32)
    names = [tokenizer.convert_tokens_to_ids(f"Ġ{name}") for name in KNOWN]
    generator = torch.Generator().manual_seed(0)
    words_Vd = torch.zeros(VOCABULARY, 32)
    words_Vd[:, 16:] = torch.randn(VOCABULARY, 16, generator=generator)
    words_Vd[names] = torch.eye(32)[:12]
    words_Vd[tokenizer.convert_tokens_to_ids("Ġto"), 12] = 4
    logits_Vd = torch.zeros(VOCABULARY, 32)
    logits_Vd[names] = 2 * torch.eye(32)[:12] + 3 * torch.eye(32)[12]
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(words_Vd)
        model.get_output_embeddings().weight.copy_(logits_Vd)
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.zero_()
            layer.self_attn.o_proj.weight.zero_()
        attention = model.model.layers[1].self_attn
        attention.q_proj.weight.zero_()
        attention.v_proj.weight.copy_(torch.eye(16, 32) * (torch.arange(16) < 12)[:, None])
        # Heads 0 and 1 read the first half of the values, heads 2 and 3 the second.
        taken = attention.o_proj.weight
        taken[:8, :8] = taken[8:16, 16:24] = (8 if echoing else -8) * torch.eye(8)
    model.save_pretrained(directory)
    return directory


def _tokenizer() -> PreTrainedTokenizerFast:
    """Each word is a token, a name only if it is KNOWN."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<|unknown|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    some = {"first": KNOWN[0], "second": KNOWN[0], "subject": KNOWN[0], "place": PLACES[0], "object": OBJECTS[0]}
    sentences = [" " + template.format(**some) for template in TEMPLATES]
    lists = [" " + " ".join(words) for words in (KNOWN, PLACES, OBJECTS)]
    trainer = trainers.WordLevelTrainer(
        vocab_size=VOCABULARY, special_tokens=["<|end|>", "<|unknown|>"], show_progress=False
    )
    tokenizer.train_from_iterator(["The", *sentences, *lists], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", unk_token="<|unknown|>")
