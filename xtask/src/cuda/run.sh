#!/bin/bash
# Starts a program of this package on the machine with the GPU: run.sh PROGRAM ARGUMENTS
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# Where the programs look for headers when a kernel is compiled; chosen when they were built.
root=@ROOT@
mkdir -p "$root/include"
cp "$here"/include/* "$root/include/"
site=$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))' 2>/dev/null || true)
for folder in "$site/nvidia/cu13/lib" /usr/local/cuda/lib64 /usr/local/nvidia/lib64 /usr/local/nvidia/lib; do
    if [ -d "$folder" ]; then LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder; fi
done
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}
program=$1
shift
if [ -x "$here/$program" ]; then program=$here/$program; fi
if ldd "$program" | grep 'not found' >&2; then
    echo "missing libraries; looked in LD_LIBRARY_PATH=$LD_LIBRARY_PATH; these are on the machine:" >&2
    find / -xdev \( -name 'libcublas.so.*' -o -name 'libnvrtc.so.*' -o -name 'libcuda.so.1' \) 2>/dev/null >&2 || true
    exit 3
fi
exec "$program" "$@"
