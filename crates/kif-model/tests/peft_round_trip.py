"""Loads what this crate wrote with the Python libraries that users load it with.

    pip install torch transformers peft safetensors
    python peft_round_trip.py adapter MODEL_DIR OUR_ADAPTER GOLDEN_ADAPTER   # both give the same logits
    python peft_round_trip.py model OUR_MODEL GOLDEN_MODEL                   # both give the same logits
    python peft_round_trip.py merged OUR_MERGED MODEL_DIR GOLDEN_ADAPTER     # the merged base gives those of the adapter

Prints the largest difference of the logits of one fixed batch and exits with 1 if it is above 1e-5; for a merged base,
where rounding differs by design, above 1e-5 of the largest logit (peft's own merge_and_unload differs by 0.2e-5 and
0.6e-5 of it on the two golden models).
"""
import sys

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM


def base(path):
    reads_both_ways = AutoConfig.from_pretrained(path).is_encoder_decoder
    kind = AutoModelForSeq2SeqLM if reads_both_ways else AutoModelForCausalLM
    model, info = kind.from_pretrained(path, output_loading_info=True)
    for keys in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[keys], (path, keys, info[keys])
    return model.float().eval()


def adapted(model, adapter):
    import warnings
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # peft warns where keys are missing
        return PeftModel.from_pretrained(base(model), adapter).eval()


def logits(model):
    torch.manual_seed(0)
    ids, labels = torch.randint(2, 500, (3, 17)), torch.randint(2, 500, (3, 5))
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            return model(input_ids=ids, labels=labels).logits
        return model(input_ids=torch.cat([ids, labels], 1)).logits


kind, *paths = sys.argv[1:]
if kind == "adapter":
    one, two = adapted(paths[0], paths[1]), adapted(paths[0], paths[2])
    ours, golden = one.state_dict(), two.state_dict()
    assert ours.keys() == golden.keys() and all(torch.equal(ours[k], golden[k]) for k in ours)
elif kind == "model":
    one, two = base(paths[0]), base(paths[1])
elif kind == "merged":
    one, two = base(paths[0]), adapted(paths[1], paths[2])
else:
    sys.exit(__doc__)
with_one, with_two = logits(one), logits(two)
difference = (with_one - with_two).abs().max().item()
allowed = 1e-5 * (with_two.abs().max().item() if kind == "merged" else 1)
print(f"{kind}: largest difference of logits {difference:.3g}, allowed {allowed:.3g}")
sys.exit(difference > allowed)
