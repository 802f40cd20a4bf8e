"""Digests of what is loaded: each change of content gives another one, names and places do not.

    python3 tests/plugin/test_content.py
"""
import enum
import json
import os
import struct
import sys
import tempfile
import unittest
from dataclasses import dataclass
from unittest import mock

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, 'plugin'))

from kvtier import content    # noqa: E402
from kvtier.content import ContentUnknown    # noqa: E402

PAGE = content.PAGE_BYTES


def write(folder, name, data):
    path = os.path.join(folder, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'wb') as file:
        file.write(data)
    return path


def safetensors(sizes):
    """A file with tensors of these numbers of bytes."""
    header, offset = {}, 0
    for place, size in enumerate(sizes):
        header[f'layer.{place}'] = {'dtype': 'U8', 'shape': [size],
                                    'data_offsets': [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    return struct.pack('<Q', len(text)) + text + bytes(place % 251 for place in range(offset))


def change(path, offset):
    """Changes one byte, and nothing else that a program could see at once."""
    with open(path, 'r+b') as file:
        file.seek(offset, os.SEEK_END if offset < 0 else os.SEEK_SET)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


class Folders(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory(prefix='kvtier-test-')
        self.addCleanup(temporary.cleanup)
        self.folder = temporary.name

    def refuses(self, words, call, *arguments):
        with self.assertRaises(ContentUnknown) as caught:
            call(*arguments)
        self.assertIn(words, str(caught.exception))


class Weights(Folders):
    def setUp(self):
        super().setUp()
        self.path = write(self.folder, 'model.safetensors', safetensors([100, 50 * PAGE, 3000]))

    def test_the_same_content_in_another_folder_has_the_same_digest(self):
        with tempfile.TemporaryDirectory(prefix='kvtier-test-') as other:
            write(other, 'model.safetensors', safetensors([100, 50 * PAGE, 3000]))
            self.assertEqual(content.files_digest(self.folder), content.files_digest(other))

    def test_a_changed_byte_in_any_page_that_is_read_gives_another_digest(self):
        end = os.path.getsize(self.path)
        large = end - 3000 - 50 * PAGE              # where the large tensor begins
        before = content.files_digest(self.folder)
        for offset in (10, large - 1, large, large + PAGE - 1, large + 25 * PAGE, end - 3001,
                       end - 3000, end - 1):
            change(self.path, offset)
            self.assertNotEqual(content.files_digest(self.folder), before, offset)
            change(self.path, offset)
            self.assertEqual(content.files_digest(self.folder), before, offset)

    def test_a_small_tensor_is_read_whole(self):
        path = write(self.folder, 'model.safetensors', safetensors([3 * PAGE]))
        before = content.files_digest(self.folder)
        for offset in (PAGE, 2 * PAGE - 1, 2 * PAGE):
            change(path, os.path.getsize(path) - 3 * PAGE + offset)
            self.assertNotEqual(content.files_digest(self.folder), before)
            change(path, os.path.getsize(path) - 3 * PAGE + offset)

    def test_tensors_that_are_cut_in_another_way_give_another_digest(self):
        first = content.files_digest(self.folder)
        write(self.folder, 'model.safetensors', safetensors([101, 50 * PAGE, 2999]))
        self.assertNotEqual(content.files_digest(self.folder), first)

    def test_each_weight_file_counts_and_so_does_its_name(self):
        seen = {content.files_digest(self.folder)}
        other = write(self.folder, 'part/model-2.safetensors', safetensors([10]))
        seen.add(content.files_digest(self.folder))
        os.rename(other, os.path.join(self.folder, 'part', 'model-3.safetensors'))
        seen.add(content.files_digest(self.folder))
        write(self.folder, 'pytorch_model.bin', b'abc')
        seen.add(content.files_digest(self.folder))
        write(self.folder, 'model.safetensors.index.json', b'{}')
        seen.add(content.files_digest(self.folder))
        self.assertEqual(len(seen), 5)

    def test_files_that_are_not_weights_do_not_count(self):
        before = content.files_digest(self.folder)
        for name in ('.hidden.safetensors', '.cache/x.safetensors', 'model.safetensors.lock',
                     'README.md', 'optimizer.pt', 'training_args.bin', 'rng_state_0.pth'):
            write(self.folder, name, b'not weights')
        self.assertEqual(content.files_digest(self.folder), before)

    def test_other_formats_are_sampled_from_the_first_to_the_last_page(self):
        os.remove(self.path)
        size = 3 * content.PAGES_OF_OTHER_FORMATS * PAGE
        path = write(self.folder, 'pytorch_model.bin', bytes(size))
        before = content.files_digest(self.folder)
        for offset in (0, PAGE - 1, size - PAGE, size - 1):
            change(path, offset)
            self.assertNotEqual(content.files_digest(self.folder), before, offset)
            change(path, offset)
        self.assertEqual(content.files_digest(self.folder), before)

    def test_a_small_file_of_another_format_is_read_whole(self):
        path = write(self.folder, 'model.gguf', bytes(100 * PAGE))
        before = content.files_digest(path)
        change(path, 33 * PAGE + 7)
        self.assertNotEqual(content.files_digest(path), before)

    def test_no_more_than_the_pages_is_read_of_a_large_file(self):
        size = 64 << 30                              # sparse
        header = json.dumps({'a': {'data_offsets': [0, size]}}).encode()
        with open(self.path, 'wb') as file:
            file.write(struct.pack('<Q', len(header)) + header)
            file.truncate(8 + len(header) + size)
        read = []
        pread = os.pread
        with mock.patch('os.pread', lambda file, count, offset:
                        read.append(count) or pread(file, count, offset)):
            content.files_digest(self.folder)
        self.assertLess(sum(read), 1 << 20)

    def test_a_file_that_is_not_whole_safetensors_is_refused(self):
        whole = safetensors([10000])
        for broken in (b'', whole[:7], whole[:30], whole[:-1],
                       b'version https://git-lfs.github.com/spec/v1\n',
                       struct.pack('<Q', 2) + b'[]', struct.pack('<Q', 7) + b'{"a":1}',
                       struct.pack('<Q', 29) + b'{"a":{"data_offsets":[9,-1]}}'):
            write(self.folder, 'model.safetensors', broken)
            self.refuses('whole safetensors', content.files_digest, self.folder)

    def test_a_folder_without_weights_is_refused(self):
        os.remove(self.path)
        write(self.folder, 'config.json', b'{}')
        self.refuses('no weight files', content.files_digest, self.folder)

    def test_a_link_to_nowhere_and_a_pipe_are_refused(self):
        os.symlink('/nowhere', os.path.join(self.folder, 'b.safetensors'))
        self.refuses('cannot be read', content.files_digest, self.folder)
        os.remove(os.path.join(self.folder, 'b.safetensors'))
        os.mkfifo(os.path.join(self.folder, 'b.bin'))
        self.refuses('regular file', content.files_digest, self.folder)


class Texts(Folders):
    def test_configs_and_media_preprocessing_count_and_the_tokenizer_does_not(self):
        write(self.folder, 'config.json', b'{}')
        seen = {content.texts_digest(self.folder)}
        for name in ('tokenizer.json', 'tokenizer_config.json', 'generation_config.json'):
            write(self.folder, name, b'{}')
        seen.add(content.texts_digest(self.folder))
        self.assertEqual(len(seen), 1)
        write(self.folder, 'preprocessor_config.json', b'{}')
        seen.add(content.texts_digest(self.folder))
        write(self.folder, 'config.json', b'{"a": 1}')
        seen.add(content.texts_digest(self.folder))
        self.assertEqual(len(seen), 3)

    def test_code_counts_only_when_it_is_run(self):
        write(self.folder, 'config.json', b'{}')
        plain = content.texts_digest(self.folder)
        path = write(self.folder, 'modeling.py', b'pass')
        self.assertEqual(content.texts_digest(self.folder), plain)
        first = content.texts_digest(self.folder, with_code=True)
        change(path, 0)
        self.assertNotEqual(content.texts_digest(self.folder, with_code=True), first)


class Places(Folders):
    def test_a_local_folder_is_itself(self):
        self.assertEqual(content.weights_folder(self.folder, None, None), self.folder)

    def test_a_repository_is_found_in_the_cache_by_branch_and_by_commit(self):
        place = os.path.join(self.folder, 'models--some--model')
        os.makedirs(os.path.join(place, 'snapshots', 'abc123'))
        write(place, 'refs/main', b'abc123\n')
        expected = os.path.join(place, 'snapshots', 'abc123')
        for revision in (None, 'main', 'abc123'):
            self.assertEqual(content.weights_folder('some/model', revision, self.folder), expected)
        with mock.patch.dict(os.environ, {'HF_HUB_CACHE': self.folder}):
            self.assertEqual(content.weights_folder('some/model', None, None), expected)

    def test_what_is_nowhere_is_refused_with_what_would_be_right(self):
        for model in ('some/other', '/nowhere/at/all', 's3://bucket/model', '../nowhere', 'a/../b'):
            self.refuses('folder', content.weights_folder, model, None, self.folder)
        self.refuses('revision', content.weights_folder, 'a/b', '../..', self.folder)


class Colour(enum.Enum):
    RED = 1


@dataclass
class Settings:
    size: int
    colour: Colour


class Configs(unittest.TestCase):
    def test_the_order_of_keys_does_not_matter(self):
        self.assertEqual(content.config_digest({'a': 1, 'b': {'c': 2, 'd': 3}}),
                         content.config_digest({'b': {'d': 3, 'c': 2}, 'a': 1}))

    def test_values_that_differ_give_digests_that_differ(self):
        values = [None, True, 1, 1.0, '1', b'1', [1], [[1]], {1: 1}, {'1': 1}, {1}, Colour.RED,
                  Settings, Settings(1, Colour.RED), Settings(2, Colour.RED), float('nan'), 'None',
                  float('inf'), {}, [], '', False, 0]
        digests = {content.config_digest({'value': value}) for value in values}
        self.assertEqual(len(digests), len(values))

    def test_equal_sets_and_objects_give_equal_digests(self):
        for first, second in (({'a', 'b', 'c'}, {'c', 'b', 'a'}), ((1, 2), [1, 2]),
                              (Settings(1, Colour.RED), Settings(1, Colour.RED))):
            self.assertEqual(content.config_digest({'value': first}),
                             content.config_digest({'value': second}))

    def test_what_has_no_canonical_form_is_refused_by_its_place(self):
        endless = []
        endless.append(endless)
        for value, words in ((object(), 'settings.value is a object'), ((lambda: 0), 'function'),
                             (endless, 'deep'), ({'deeper': object()}, 'settings.value.deeper')):
            with self.assertRaises(ContentUnknown) as caught:
                content.config_digest({'value': value})
            self.assertIn(words, str(caught.exception))


class Adapters(Folders):
    def setUp(self):
        super().setUp()
        write(self.folder, 'adapter_config.json', b'{"r": 8}')
        self.path = write(self.folder, 'adapter_model.safetensors', safetensors([50 * PAGE]))

    def test_any_changed_byte_gives_another_digest(self):
        before = content.adapter_digest(self.folder)
        self.assertEqual(len(before), 32)
        for offset in (10 * PAGE, -1):               # pages that a model's sampling leaves out
            change(self.path, offset)
            self.assertNotEqual(content.adapter_digest(self.folder), before)
            change(self.path, offset)
        change(os.path.join(self.folder, 'adapter_config.json'), 6)
        self.assertNotEqual(content.adapter_digest(self.folder), before)

    def test_a_large_adapter_is_sampled(self):
        with mock.patch.object(content, 'ADAPTER_WHOLE_BYTES_MAX', PAGE):
            before = content.adapter_digest(self.folder)
            change(self.path, -1)
            self.assertNotEqual(content.adapter_digest(self.folder), before)

    def test_a_folder_without_an_adapter_is_refused(self):
        self.refuses('not a folder', content.adapter_digest, '/nowhere')
        os.remove(self.path)
        self.refuses('no adapter weights', content.adapter_digest, self.folder)

    def test_a_file_that_is_written_or_replaced_changes_the_signature(self):
        before = content.folder_signature(self.folder)
        self.assertEqual(content.folder_signature(self.folder), before)
        status = os.stat(self.path)
        os.utime(self.path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        written = content.folder_signature(self.folder)
        self.assertNotEqual(written, before)
        os.rename(self.path, self.path + '.old')
        copy = write(self.folder, 'adapter_model.safetensors', safetensors([50 * PAGE]))
        os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        self.assertNotEqual(content.folder_signature(self.folder), written)


if __name__ == '__main__':
    unittest.main()
