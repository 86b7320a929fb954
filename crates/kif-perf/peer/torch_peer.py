"""The peer of `kif-perf step` and `kif-perf score`: the same work with PyTorch, transformers and peft.

    pip install torch transformers peft
    OMP_NUM_THREADS=2 python torch_peer.py step --model DIR [--rows FILE] [--precision bf16] [--steps 20]
    OMP_NUM_THREADS=2 python torch_peer.py score --model DIR --rows FILE [--limit 1000]

Batches are taken in file order and padded to the longest row (a multiple of 8), as the code released with Recurrent-KIF
does. A step is gradient, clipping and AdamW. Prints one line of JSON with the keys of `kif-perf`.
"""
import argparse, json, os, resource, time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

TARGET_TOKENS = 8
WARM_UP = 2


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["step", "score"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows")
    parser.add_argument("--max-input", type=int, default=512)
    parser.add_argument("--input-tokens", type=int, default=128)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--precision", default="f32", choices=["f32", "bf16"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--max-new-tokens", type=int, default=16)
    return parser.parse_args()


def encoded(args, tokenizer):
    """Pairs of input and target ids; an input that is cut keeps its end token."""
    with open(args.rows) as file:
        rows = json.load(file)
    if args.what == "score":
        rows = rows[: args.limit]
    ids = lambda text: tokenizer(text).input_ids
    first = lambda output: output if isinstance(output, str) else output[0]
    cut = lambda x: x if len(x) <= args.max_input else x[: args.max_input - 1] + x[-1:]
    return [(cut(ids(row.get("instruction", "") + row["input"])), ids(first(row["output"])), first(row["output"]))
            for row in rows]


def padded(rows, value):
    length = -(-max(map(len, rows)) // 8) * 8
    return torch.tensor([row + [value] * (length - len(row)) for row in rows])


def batch(args, rows, k):
    n = args.batch_size
    if rows is None:
        return dict(input_ids=torch.randint(10, 8000, (n, args.input_tokens)),
                    labels=torch.randint(10, 8000, (n, TARGET_TOKENS)))
    chosen = [rows[(k * n + i) % len(rows)] for i in range(n)]
    inputs = [x for x, _, _ in chosen]
    return dict(input_ids=padded(inputs, 0), attention_mask=padded([[1] * len(x) for x in inputs], 0),
                labels=padded([y for _, y, _ in chosen], -100))


def step(args, model, rows):
    args.batch_size = args.batch_size or 8
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=32, lora_dropout=0.0, target_modules=["q", "v"]))
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-4)
    seconds, losses = [], []
    for k in range(WARM_UP + args.steps):
        inputs = batch(args, rows, k)
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.precision == "bf16"):
            loss = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if k >= WARM_UP:
            seconds.append(time.perf_counter() - start)
    return dict(step_s=seconds, losses=losses)


def score(args, model, rows, tokenizer):
    """Greedy answers, batches of rows sorted by length."""
    n = args.batch_size or 16
    model.eval()
    right, start = 0, time.perf_counter()
    rows = sorted(rows, key=lambda row: len(row[0]))
    with torch.no_grad():
        for k in range(0, len(rows), n):
            chosen = rows[k : k + n]
            inputs = [x for x, _, _ in chosen]
            answers = model.generate(
                input_ids=padded(inputs, 0), attention_mask=padded([[1] * len(x) for x in inputs], 0),
                max_new_tokens=args.max_new_tokens, do_sample=False)
            for (_, _, wanted), answer in zip(chosen, answers):
                text = tokenizer.decode(answer, skip_special_tokens=True)
                right += text.strip().lower() == wanted.strip().lower()
    return dict(total_s=time.perf_counter() - start, rows=len(rows), exact_match=right / len(rows))


def main():
    args = arguments()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())))
    tokenizer = None
    if args.rows:
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=os.path.join(args.model, "tokenizer.json"))
    # Without T5's own dropout, which we do not have either.
    model = AutoModelForSeq2SeqLM.from_pretrained(args.model, dtype=torch.float32, dropout_rate=0.0)
    rows = encoded(args, tokenizer) if args.rows else None
    result = step(args, model, rows) if args.what == "step" else score(args, model, rows, tokenizer)
    result.update(threads=torch.get_num_threads(), torch=torch.__version__,
                  peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(json.dumps(result))


main()
