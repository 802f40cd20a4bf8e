"""model.py: equal arguments give equal bytes; another seed gives other weights and no more."""
import filecmp
import json
import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import model  # noqa: E402


def tensors(folder, name='model.safetensors'):
    from safetensors.torch import load_file
    return load_file(os.path.join(folder, name))


class Model(unittest.TestCase):
    def setUp(self):
        own = tempfile.TemporaryDirectory(prefix='kvtier-model-')
        self.addCleanup(own.cleanup)
        self.first, self.second = os.path.join(own.name, 'first'), os.path.join(own.name, 'second')

    def test_the_same_arguments_give_the_same_files(self):
        model.make_model(self.first, seed=3)
        model.make_model(self.second, seed=3)
        names = sorted(os.listdir(self.first))
        same, _, _ = filecmp.cmpfiles(self.first, self.second, names, shallow=False)
        self.assertEqual(sorted(same), names)

    def test_other_weights_have_the_same_names_and_shapes(self):
        model.make_model(self.first)
        before = tensors(self.first)
        model.write_weights(self.first, seed=1)
        after = tensors(self.first)
        self.assertEqual({name: tensor.shape for name, tensor in before.items()},
                         {name: tensor.shape for name, tensor in after.items()})
        self.assertFalse([name for name, tensor in before.items()
                          if 'norm' not in name and tensor.equal(after[name])])

    def test_an_adapter_fits_its_model(self):
        model.make_model(self.first)
        model.make_adapter(self.second, self.first, rank=8)
        base, parts = tensors(self.first), tensors(self.second, 'adapter_model.safetensors')
        self.assertEqual(len(parts), 4 * len(model.ADAPTER_TARGETS) * 2)
        for name in (name for name in parts if name.endswith('lora_A.weight')):
            below = parts[name.replace('lora_A', 'lora_B')]
            weight = name.removeprefix('base_model.model.').replace('.lora_A', '')
            self.assertEqual((below.shape[0], parts[name].shape[1]), tuple(base[weight].shape))

    def test_a_hybrid_has_layers_of_both_kinds(self):
        model.make_model(self.first, 'hybrid')
        with open(os.path.join(self.first, 'config.json'), encoding='utf-8') as file:
            kinds = json.load(file)['layer_types']
        self.assertEqual(kinds, ['sliding_attention', 'full_attention'] * 2)


if __name__ == '__main__':
    unittest.main()
