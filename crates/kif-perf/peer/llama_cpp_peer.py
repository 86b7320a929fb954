"""llama.cpp beside `kif-perf score`: greedy answers, one row after the other.

    pip install llama-cpp-python
    python llama_cpp_peer.py MODEL.gguf ROWS.jsonl [--threads 2] [--limit 500] [--without-amx]

Rows are lines of ids that `kif-perf rows` wrote. What a prompt has in common with the one before is not read again, as
llama-cpp-python does by itself. Its kernels for AMX end in a crash on some virtual machines: `--without-amx`. Prints one line
of JSON with the keys of `kif-perf`.
"""
import argparse, json, resource, time

from llama_cpp import Llama, llama_cpp

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("rows")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--limit", type=int, default=500)
parser.add_argument("--max-new-tokens", type=int, default=16)
parser.add_argument("--without-amx", action="store_true")
args = parser.parse_args()
if args.without_amx:
    defaults = llama_cpp.llama_model_default_params

    def plain():
        params = defaults()
        params.use_extra_bufts = False
        return params

    llama_cpp.llama_model_default_params = plain

with open(args.rows) as file:
    prompts = [json.loads(line)["input_ids"] for line in file][: args.limit]
longest = max(map(len, prompts)) + args.max_new_tokens
model = Llama(args.model, n_ctx=longest, n_batch=512, n_threads=args.threads, n_threads_batch=args.threads,
              verbose=False)
n_new, start = 0, time.perf_counter()
for prompt in prompts:
    for n, token in enumerate(model.generate(prompt, temp=0.0), 1):
        if token == model.token_eos():
            break
        n_new += 1
        if n == args.max_new_tokens:
            break
print(json.dumps(dict(total_s=time.perf_counter() - start, rows=len(prompts), prompt_tokens=sum(map(len, prompts)),
                      new_tokens=n_new, threads=args.threads,
                      peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)))
