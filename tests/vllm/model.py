#!/usr/bin/env python3
"""Small models with random weights for tests: no download, the same bytes for the same arguments.

    PYTHON tests/vllm/model.py FOLDER                       4 layers, 256 wide, float32
    PYTHON tests/vllm/model.py FOLDER --kind benchmark      12 layers, 1,024 wide, bfloat16
    PYTHON tests/vllm/model.py FOLDER --kind hybrid         full and sliding-window layers in turn
    PYTHON tests/vllm/model.py FOLDER --seed 2 --weights    other weights in a folder that is there
    PYTHON tests/vllm/model.py FOLDER --adapter MODEL       a LoRA adapter for the model in MODEL

PYTHON: an interpreter with torch, safetensors and tokenizers, as environment.python() names. What a
model says is nonsense, but it depends on every token before, so a wrong KV block shows.
"""
from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
from collections.abc import Iterator

os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')   # words of one rank: always one order

VOCABULARY = 4096
SPECIAL_TOKENS = ('<s>', '</s>', '<pad>')
CHAT_TEMPLATE = ("{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n"
                 '{% endfor %}assistant:')
WORDS_KNOWN = 6000
SENTENCES_TRAINED = 4000
SENTENCE_WORDS = 40
ADAPTER_TARGETS = ('q_proj', 'k_proj', 'v_proj', 'o_proj')
# A layer passes on about as much as it gets; logits lie so far apart that rounding decides nothing.
GAIN, GAIN_LOGITS = 1.25, 2.0


def config_of_llama(layers: int, width: int, kv_heads: int, dtype: str) -> dict:
    return {
        'architectures': ['LlamaForCausalLM'], 'model_type': 'llama', 'hidden_act': 'silu',
        'num_hidden_layers': layers, 'hidden_size': width, 'intermediate_size': width * 11 // 4,
        'num_attention_heads': width // 64, 'num_key_value_heads': kv_heads, 'head_dim': 64,
        'vocab_size': VOCABULARY, 'max_position_embeddings': 8192, 'rms_norm_eps': 1e-5,
        'rope_theta': 10000.0, 'tie_word_embeddings': False, 'attention_bias': False,
        'mlp_bias': False, 'bos_token_id': 0, 'eos_token_id': 1, 'pad_token_id': 2,
        'torch_dtype': dtype,
    }


def config_of_hybrid(layers: int, width: int, window: int) -> dict:
    """Each second layer looks back over `window` tokens, the others over everything; vLLM gives
    each kind a KV cache group of its own. Its Llama takes layer_types as Gemma 3 and gpt-oss do."""
    kinds = ['full_attention' if layer % 2 else 'sliding_attention' for layer in range(layers)]
    return config_of_llama(layers, width, 2, 'float32') | {
        'layer_types': kinds, 'sliding_window': window}


CONFIGS = {
    'small': config_of_llama(4, 256, 2, 'float32'),
    'benchmark': config_of_llama(12, 1024, 4, 'bfloat16'),
    'hybrid': config_of_hybrid(4, 256, 256),
}


def projections_of(config: dict) -> dict[str, tuple[int, int]]:
    """Of one layer: name, and (outputs, inputs)."""
    width, inner, head = (config[key] for key in ('hidden_size', 'intermediate_size', 'head_dim'))
    heads, kv_heads = config['num_attention_heads'], config['num_key_value_heads']
    return {
        'self_attn.q_proj': (heads * head, width), 'self_attn.k_proj': (kv_heads * head, width),
        'self_attn.v_proj': (kv_heads * head, width), 'self_attn.o_proj': (width, heads * head),
        'mlp.gate_proj': (inner, width), 'mlp.up_proj': (inner, width),
        'mlp.down_proj': (width, inner),
    }


def tensors_of(config: dict) -> Iterator[tuple[str, tuple[int, ...], float]]:
    """(name, shape, deviation) of every weight, always in one order; deviation 0: ones."""
    width, vocabulary = config['hidden_size'], config['vocab_size']
    yield 'model.embed_tokens.weight', (vocabulary, width), 1.0 / math.sqrt(width)
    for layer in range(config['num_hidden_layers']):
        for name, shape in projections_of(config).items():
            yield f'model.layers.{layer}.{name}.weight', shape, GAIN / math.sqrt(shape[1])
        for name in ('input_layernorm', 'post_attention_layernorm'):
            yield f'model.layers.{layer}.{name}.weight', (width,), 0.0
    yield 'model.norm.weight', (width,), 0.0
    yield 'lm_head.weight', (vocabulary, width), GAIN_LOGITS / math.sqrt(width)


def write_json(folder: str, name: str, value: dict) -> None:
    with open(os.path.join(folder, name), 'w', encoding='utf-8') as file:
        json.dump(value, file, indent=1, sort_keys=True)
        file.write('\n')


def write_tensors(folder: str, name: str, tensors: dict) -> None:
    """In one step: who has the old file open keeps the old bytes."""
    from safetensors.torch import save_file
    path = os.path.join(folder, name)
    save_file(tensors, path + '.new', metadata={'format': 'pt'})
    os.replace(path + '.new', path)


def write_weights(folder: str, seed: int) -> None:
    """New weights for the config.json in `folder`: same names and shapes, other numbers."""
    import torch
    with open(os.path.join(folder, 'config.json'), encoding='utf-8') as file:
        config = json.load(file)
    numbers = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape, deviation in tensors_of(config):
        tensor = (torch.randn(shape, generator=numbers) * deviation if deviation
                  else torch.ones(shape))
        tensors[name] = tensor.to(getattr(torch, config['torch_dtype']))
    write_tensors(folder, 'model.safetensors', tensors)


def words() -> list[str]:
    chance = random.Random(0)
    syllables = [first + second for first in 'bcdfghjklmnprstvwz' for second in 'aeiou']
    return [''.join(chance.choices(syllables, k=chance.randint(1, 4))) for _ in range(WORDS_KNOWN)]


def text(words_count: int, seed: int) -> str:
    """Words that the tokenizer knows, so about one to two tokens each."""
    return ' '.join(random.Random(seed).choices(words(), k=words_count))


def write_tokenizer(folder: str, positions: int) -> None:
    """Byte-level BPE, so that any text can be said; trained on what text() gives."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=list(SPECIAL_TOKENS),
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                                  show_progress=False)
    chance, known = random.Random(1), words()
    sentences = (' '.join(chance.choices(known, k=SENTENCE_WORDS))
                 for _ in range(SENTENCES_TRAINED))
    tokenizer.train_from_iterator(sentences, trainer)
    if tokenizer.get_vocab_size() > VOCABULARY:
        raise ValueError(f'{tokenizer.get_vocab_size()} tokens, the model has {VOCABULARY}')
    tokenizer.save(os.path.join(folder, 'tokenizer.json'))
    begin, end, padding = SPECIAL_TOKENS
    write_json(folder, 'tokenizer_config.json', {
        'tokenizer_class': 'PreTrainedTokenizerFast', 'model_max_length': positions,
        'bos_token': begin, 'eos_token': end, 'pad_token': padding,
        'clean_up_tokenization_spaces': False, 'chat_template': CHAT_TEMPLATE})


def make_model(folder: str, kind: str = 'small', seed: int = 0) -> str:
    """A model of CONFIGS with its tokenizer, ready for vLLM; returns the folder."""
    config = CONFIGS[kind]
    os.makedirs(folder, exist_ok=True)
    write_json(folder, 'config.json', config)
    write_json(folder, 'generation_config.json',
               {key: config[key] for key in ('bos_token_id', 'eos_token_id', 'pad_token_id')})
    write_tokenizer(folder, config['max_position_embeddings'])
    write_weights(folder, seed)
    return folder


def make_adapter(folder: str, model_folder: str, seed: int = 0, rank: int = 8) -> str:
    """A LoRA adapter in PEFT's form, strong enough to change what the model says."""
    import torch
    with open(os.path.join(model_folder, 'config.json'), encoding='utf-8') as file:
        config = json.load(file)
    numbers = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(config['num_hidden_layers']):
        for name, (outputs, inputs) in projections_of(config).items():
            if name.rpartition('.')[2] not in ADAPTER_TARGETS:
                continue
            stem = f'base_model.model.model.layers.{layer}.{name}'
            for part, shape in (('lora_A', (rank, inputs)), ('lora_B', (outputs, rank))):
                tensors[f'{stem}.{part}.weight'] = (
                    torch.randn(shape, generator=numbers) / math.sqrt(shape[1]))
    os.makedirs(folder, exist_ok=True)
    write_json(folder, 'adapter_config.json', {
        'peft_type': 'LORA', 'task_type': 'CAUSAL_LM', 'r': rank, 'lora_alpha': 2 * rank,
        'lora_dropout': 0.0, 'bias': 'none', 'target_modules': list(ADAPTER_TARGETS),
        'base_model_name_or_path': os.path.basename(os.path.normpath(model_folder)),
        'inference_mode': True, 'modules_to_save': None, 'fan_in_fan_out': False})
    write_tensors(folder, 'adapter_model.safetensors', tensors)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder')
    parser.add_argument('--kind', choices=sorted(CONFIGS), default='small')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--weights', action='store_true', help='only model.safetensors, anew')
    parser.add_argument('--adapter', metavar='MODEL', help='a LoRA adapter for this model')
    arguments = parser.parse_args()
    if arguments.adapter:
        make_adapter(arguments.folder, arguments.adapter, arguments.seed)
    elif arguments.weights:
        write_weights(arguments.folder, arguments.seed)
    else:
        make_model(arguments.folder, arguments.kind, arguments.seed)
    return 0


if __name__ == '__main__':
    sys.exit(main())
