"""A small real model whose KV cache goes through kvtierd: suite_model.py JSON, one process of its life.

It is made on the spot from a seed, so each process has the same one. The first process computes a prompt, stores the
KV cache of its full blocks and goes on greedily; the second loads them and goes on from there. Both compute the prompt
in the same two pieces - full blocks, then the rest - so what differs is only where the first piece comes from: the
tokens must be the same. On a GPU its blocks are lent, on a CPU they are host memory.
"""
import json
import os
import random
import statistics
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(os.path.dirname(HERE), 'system'))
import library        # noqa: E402
import node           # noqa: E402
import suite_device   # noqa: E402
import suite_engine   # noqa: E402

ROUNDS = 5
NEW_TOKENS = 32
WEIGHTS_RANGE = 0.1   # large enough for words to depend on what is in the cache
SIZES = {   # hidden, between, layers, heads, KV heads, words, prompt, tokens a block
    'cuda': (2048, 5632, 16, 16, 8, 32000, 16384 + 40, 64),
    'cpu': (256, 512, 4, 4, 2, 1000, 512 + 10, 16),
}


class Model:
    def __init__(self, device):
        self.torch = suite_device.torch_or_missing()
        try:
            import transformers   # pylint: disable=import-outside-toplevel
        except ImportError as error:
            raise suite_device.Missing(f'no transformers: {error}') from None
        hidden, between, layers, heads, kv_heads, words, self.prompt_tokens, self.tokens = SIZES[device]
        self.device, self.layers, self.kv_heads, self.width = device, layers, kv_heads, hidden // heads
        self.words, self.new_cache = words, transformers.DynamicCache
        self.dtype = self.torch.bfloat16 if device == 'cuda' else self.torch.float32
        config = transformers.LlamaConfig(
            hidden_size=hidden, intermediate_size=between, num_hidden_layers=layers, num_attention_heads=heads,
            num_key_value_heads=kv_heads, vocab_size=words, max_position_embeddings=2 * self.prompt_tokens,
            initializer_range=WEIGHTS_RANGE)
        self.torch.manual_seed(11)
        with self.torch.device(device):
            self.model = transformers.LlamaForCausalLM(config).to(dtype=self.dtype).eval()
        self.blocks = (self.prompt_tokens - 1) // self.tokens   # full ones, and at least a token behind them
        self.block_bytes = layers * 2 * kv_heads * self.tokens * self.width * self.dtype.itemsize

    def prompt(self, seed):
        numbers = random.Random(seed)
        return self.torch.tensor([[numbers.randrange(self.words) for _ in range(self.prompt_tokens)]],
                                 device=self.device)

    def settle(self):
        if self.device == 'cuda':
            self.torch.cuda.synchronize()

    def forward(self, words, cache):
        """The next word, greedily."""
        with self.torch.no_grad():
            output = self.model(words, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return output.logits[:, -1].argmax(-1, keepdim=True)

    def head(self, prompt, cache):
        self.forward(prompt[:, :self.blocks * self.tokens], cache)

    def first(self, prompt, cache):
        return self.forward(prompt[:, self.blocks * self.tokens:], cache)

    def more(self, word, cache):
        """The words from `word` on."""
        said = [word.item()]
        for _ in range(NEW_TOKENS - 1):
            word = self.forward(word, cache)
            said.append(word.item())
        return said

    def pool_view(self, pool):
        """(block, layer, K or V, KV head, token, width) of bytes."""
        return pool.view(self.dtype).view(-1, self.layers, 2, self.kv_heads, self.tokens, self.width)

    def cache_layer(self, cache, layer):
        if hasattr(cache, 'layers'):
            return cache.layers[layer].keys, cache.layers[layer].values
        return cache.key_cache[layer], cache.value_cache[layer]

    def gather(self, cache, pool):
        """From the model's cache into blocks."""
        view, count = self.pool_view(pool), self.blocks * self.tokens
        for layer in range(self.layers):
            for which, tensor in enumerate(self.cache_layer(cache, layer)):
                part = tensor[0, :, :count].view(self.kv_heads, self.blocks, self.tokens, self.width)
                view[:self.blocks, layer, which] = part.transpose(0, 1)

    def scatter(self, pool, cache):
        """And back, into an empty one."""
        view, shape = self.pool_view(pool), (1, self.kv_heads, self.blocks * self.tokens, self.width)
        for layer in range(self.layers):
            keys, values = (view[:self.blocks, layer, which].transpose(0, 1).reshape(shape) for which in (0, 1))
            cache.update(keys, values, layer)


class OnGpu:
    """Blocks in memory that torch allocated, lent."""

    def __init__(self, model, asked):
        layout = suite_engine.Layout(1, model.block_bytes, model.blocks)
        memory = suite_device.Memory(layout.bytes, asked['library'], is_torch=True)
        self.engine = suite_engine.Engine(asked['socket'], memory, layout)
        self.engine.connect(suite_engine.CONNECT_SECONDS)
        self.pool = memory.tensor[:layout.bytes]

    def run(self, verb, keys):
        return suite_engine.moved(self.engine, verb, keys, list(range(len(keys))))


class OnCpu:
    """Blocks in the engine's own host memory."""

    def __init__(self, model, asked):
        self.engine = library.Client(asked['socket'], payload_bytes=model.block_bytes, blocks=model.blocks)
        self.engine.connect(suite_engine.CONNECT_SECONDS)
        self.pool = model.torch.frombuffer(self.engine.memory, dtype=model.torch.uint8)

    def run(self, verb, keys):
        job = self.engine.run(verb, keys)
        return {'good': job.good, 'quiesced': job.quiesced}


def keys_of(model, name):
    return [node.hash_of('model', name, i) for i in range(model.blocks)]


def timed(model, work):
    model.settle()
    started = time.perf_counter()
    value = work()
    model.settle()
    return value, time.perf_counter() - started


def compute(model, prompt):
    """(first word, cache)."""
    cache = model.new_cache()
    model.head(prompt, cache)
    return model.first(prompt, cache), cache


def restore(model, blocks, prompt, name):
    """The same; what came of the load behind it. name None: from whatever is in the blocks."""
    cache = model.new_cache()
    figures = None if name is None else blocks.run('load', keys_of(model, name))
    model.scatter(blocks.pool, cache)
    return model.first(prompt, cache), cache, figures


def first_life(model, blocks):
    said = {}
    for seed in range(ROUNDS):
        word, cache = compute(model, model.prompt(seed))
        model.gather(cache, blocks.pool)
        model.settle()
        stored = blocks.run('store', keys_of(model, seed))
        if stored['good'] != model.blocks:
            raise AssertionError(f'{stored["good"]} of {model.blocks} blocks were stored')
        said[seed] = model.more(word, cache)
    return {'said': said}


def second_life(model, blocks):
    compute(model, model.prompt(ROUNDS))   # whatever is slow the first time
    restored, computed, said = [], [], {}
    blocks.pool.zero_()
    word, cache, _ = restore(model, blocks, model.prompt(0), None)
    without = model.more(word, cache)
    for seed in range(ROUNDS):
        prompt = model.prompt(seed)
        blocks.pool.zero_()
        (word, cache, figures), seconds = timed(model, lambda: restore(model, blocks, prompt, seed))   # pylint: disable=cell-var-from-loop
        if figures['good'] != model.blocks:
            raise AssertionError(f'{figures["good"]} of {model.blocks} blocks came back')
        restored.append(seconds)
        said[seed] = model.more(word, cache)
        _, seconds = timed(model, lambda: compute(model, prompt))   # pylint: disable=cell-var-from-loop
        computed.append(seconds)
    return {'said': said, 'without': without, 'restore_s': statistics.median(restored), 'compute_s': statistics.median(computed),
            'restore_s_all': restored, 'compute_s_all': computed, 'tokens': model.prompt_tokens,
            'mib': model.blocks * model.block_bytes >> 20}


def main():
    asked = json.loads(sys.argv[1])
    model = Model(asked['device'])
    blocks = (OnGpu if asked['device'] == 'cuda' else OnCpu)(model, asked)
    life = first_life if asked['life'] == 1 else second_life
    suite_engine.say(step='life', **life(model, blocks))
    blocks.engine.close()


if __name__ == '__main__':
    try:
        main()
    except suite_device.Missing as missing:
        suite_engine.say(step='missing', why=str(missing))
        sys.exit(77)
