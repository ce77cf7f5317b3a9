"""Answers of llama.cpp under a control vector: llama_steered.py MODEL.gguf VECTOR.gguf TOKENS ASKED.json > ANSWERS."""

import ctypes
import json
import sys

import gguf
import llama_cpp
import numpy as np

model_file, vector_file, longest, asked = sys.argv[1:]
float32 = 0  # also of keys and values, so that the numbers are those of a float32 model elsewhere
llm = llama_cpp.Llama(model_file, n_ctx=512, type_k=float32, type_v=float32, verbose=False)
layers, width = llama_cpp.llama_n_layer(llm.model), llm.n_embd()
vector = np.zeros((layers - 1, width), np.float32)  # from block 1 on
for tensor in gguf.GGUFReader(vector_file).tensors:
    vector[int(tensor.name.removeprefix("direction.")) - 1] = tensor.data
numbers = vector.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
failed = llama_cpp.llama_control_vector_apply(llm.ctx, numbers, vector.size, width, 1, layers)
assert not failed

answers = []
for prompt in json.load(open(asked)):
    llm.reset()
    answer = []
    for token in llm.generate(prompt["ids"], temp=0.0, repeat_penalty=1.0):
        answer.append(int(token))
        if token in prompt["ends"] or len(answer) == int(longest):
            break
    answers.append(answer)
print(json.dumps(answers))
