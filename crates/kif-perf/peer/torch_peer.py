"""The peer of `kif-perf step`, `score` and `generate`: the same work with PyTorch, transformers and peft.

    pip install torch transformers peft
    OMP_NUM_THREADS=2 python torch_peer.py step --model DIR [--rows FILE] [--precision bf16] [--steps 20]
    OMP_NUM_THREADS=2 python torch_peer.py score --model DIR --rows FILE [--precision bf16] [--limit 1000]
    OMP_NUM_THREADS=2 python torch_peer.py generate --model DIR --rows FILE [--precision bf16] [--limit 64]

Batches are taken in file order and padded to the longest row (a multiple of 8), as the code released with Recurrent-KIF
does; texts are written to batches of rows sorted by length, behind prompts padded on the left where there is no encoder. A
step is gradient, clipping and AdamW. Rows are those of a task file, or lines of ids that `kif-perf rows` wrote. In bf16 a T5
runs under autocast, as that code does; a decoder is loaded in bfloat16, which is faster and smaller, with the adapter in f32,
as peft makes it. A model is a directory, a GGUF file (`pip install gguf`), or a name in the hub's cache. Prints one line of
JSON with the keys of `kif-perf`.
"""
import argparse, json, os, resource, time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

TARGET_TOKENS = 8


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["step", "score", "generate"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows")
    parser.add_argument("--max-input", type=int, default=512)
    parser.add_argument("--input-tokens", type=int, default=128)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--precision", default="f32", choices=["f32", "bf16"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--max-new-tokens", type=int, default=16)
    return parser.parse_args()


def read(path):
    with open(path) as file:
        return [json.loads(line) for line in file] if path.endswith(".jsonl") else json.load(file)


def encoded(args, tokenizer):
    """Triples of input ids, target ids and target; an input that is cut keeps its end token."""
    rows = read(args.rows)
    if args.what != "step":
        rows = rows[: args.limit or {"score": 1000, "generate": 64}[args.what]]
    ids = lambda text: tokenizer(text).input_ids
    first = lambda output: output if isinstance(output, str) else output[0]
    cut = lambda x: x if len(x) <= args.max_input else x[: args.max_input - 1] + x[-1:]
    of_text = lambda row: (cut(ids(row.get("instruction", "") + row["input"])), ids(first(row["output"])), first(row["output"]))
    return [(row["input_ids"], row["target_ids"], None) if "input_ids" in row else of_text(row) for row in rows]


def padded(rows, value, left=False):
    length = -(-max(map(len, rows)) // 8) * 8
    filling = lambda row: [value] * (length - len(row))
    return torch.tensor([filling(row) + row if left else row + filling(row) for row in rows])


def batch(args, rows, k, is_decoder):
    n = args.batch_size
    if rows is None:
        ids = lambda width: torch.randint(10, 8000, (n, width))
        chosen = [(x, y, None) for x, y in zip(ids(args.input_tokens).tolist(), ids(TARGET_TOKENS).tolist())]
    else:
        chosen = [rows[(k * n + i) % len(rows)] for i in range(n)]
    if is_decoder:
        # The target behind the prompt, and the loss on the target alone.
        inputs = [x + y for x, y, _ in chosen]
        labels = [[-100] * len(x) + y for x, y, _ in chosen]
    else:
        inputs, labels = [x for x, _, _ in chosen], [y for _, y, _ in chosen]
    return dict(input_ids=padded(inputs, 0), attention_mask=padded([[1] * len(x) for x in inputs], 0),
                labels=padded(labels, -100))


def step(args, model, rows, is_decoder):
    args.batch_size = args.batch_size or 8
    targets = ["q_proj", "v_proj"] if is_decoder else ["q", "v"]
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=32, lora_dropout=0.0, target_modules=targets))
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-4)
    seconds, losses = [], []
    for k in range(args.warm_up + args.steps):
        inputs = batch(args, rows, k, is_decoder)
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.precision == "bf16" and not is_decoder):
            loss = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if k >= args.warm_up:
            seconds.append(time.perf_counter() - start)
    return dict(step_s=seconds, losses=losses)


def texts(args, model, rows, is_decoder):
    """Greedy texts in the order of the rows, without end tokens, and the seconds that they took."""
    n = args.batch_size or 16
    model.eval()
    ids = lambda value: {value} if isinstance(value, int) else set(value or [])
    ends = ids(model.generation_config.eos_token_id)
    if model.generation_config.pad_token_id is None:
        model.generation_config.pad_token_id = 0
    written, start = [None] * len(rows), time.perf_counter()
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    with torch.no_grad():
        for k in range(0, len(order), n):
            chosen = order[k : k + n]
            inputs = [rows[i][0] for i in chosen]
            prompts = padded(inputs, 0, left=is_decoder)
            answers = model.generate(
                input_ids=prompts, attention_mask=padded([[1] * len(x) for x in inputs], 0, left=is_decoder),
                max_new_tokens=args.max_new_tokens, do_sample=False)
            # Behind the prompt, or behind the token that an encoder-decoder begins with.
            for i, answer in zip(chosen, answers[:, prompts.shape[1] if is_decoder else 1 :].tolist()):
                end = next((at for at, token in enumerate(answer) if token in ends), len(answer))
                written[i] = answer[:end]
    return written, ends, time.perf_counter() - start


def score(args, model, rows, tokenizer, is_decoder):
    """Answers that end where the model ends them; of rows of ids, those with the target's ids are right."""
    written, ends, total = texts(args, model, rows, is_decoder)
    read = lambda ids: tokenizer.decode(ids, skip_special_tokens=True).strip().lower()
    if tokenizer:
        right = [read(answer) == row[2].strip().lower() for answer, row in zip(written, rows)]
    else:
        right = [answer == [token for token in row[1] if token not in ends] for answer, row in zip(written, rows)]
    return dict(total_s=total, rows=len(rows), exact_match=sum(right) / len(rows), new_tokens=sum(map(len, written)))


def generate(args, model, rows, is_decoder):
    """Texts of a fixed number of tokens: without an end token every text has its full length."""
    model.generation_config.eos_token_id = None
    written, _, total = texts(args, model, rows, is_decoder)
    assert all(len(text) == args.max_new_tokens for text in written), "a text ended early"
    return dict(total_s=total, rows=len(rows), texts=written)


def place(model):
    """Arguments of `from_pretrained`."""
    if model.endswith(".gguf"):
        folder, file = os.path.split(model)
        return dict(pretrained_model_name_or_path=folder or ".", gguf_file=file)
    return dict(pretrained_model_name_or_path=model)


def main():
    args = arguments()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())))
    tokenizer = None
    if args.rows and not args.rows.endswith(".jsonl"):
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=os.path.join(args.model, "tokenizer.json"))
    is_decoder = not AutoConfig.from_pretrained(**place(args.model)).is_encoder_decoder
    if is_decoder:
        dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32
        model = AutoModelForCausalLM.from_pretrained(**place(args.model), dtype=dtype)
    else:
        # Without T5's own dropout, which we do not have either.
        model = AutoModelForSeq2SeqLM.from_pretrained(args.model, dtype=torch.float32, dropout_rate=0.0)
    rows = encoded(args, tokenizer) if args.rows else None
    if args.what == "step":
        result = step(args, model, rows, is_decoder)
    elif args.what == "score":
        result = score(args, model, rows, tokenizer, is_decoder)
    else:
        result = generate(args, model, rows, is_decoder)
    result.update(threads=torch.get_num_threads(), torch=torch.__version__,
                  peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(json.dumps(result))


main()
