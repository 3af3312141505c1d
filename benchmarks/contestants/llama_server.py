"""llama.cpp's own server, in the form of a package with its programs inside: PYTHON llama_server.py GGUF PORT SLOTS.

The package is xllamacpp, in an environment of its own. SLOTS answers are computed together, each with 1,024 positions.
"""

from __future__ import annotations

import os
import sys
import time

import xllamacpp

file, port, slots = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
params = xllamacpp.CommonParams()
params.model.path = file
params.port, params.n_parallel, params.n_ctx, params.n_gpu_layers = port, slots, 1024 * slots, 0
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(os.environ["OMP_NUM_THREADS"])
server = xllamacpp.Server(params)
print(f"listening at {server.listening_address}", flush=True)
while True:
    time.sleep(3600)
