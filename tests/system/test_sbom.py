"""The list of what we are made of is whole, valid SPDX, and the one of docs/DEPENDENCIES.md names the same packages."""
import json
import os
import re
import shutil
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import node   # noqa: E402

SBOM = os.path.join(node.TOP, '.ci/sbom')
DOCUMENT_FIELDS = {'spdxVersion', 'dataLicense', 'SPDXID', 'name', 'documentNamespace', 'creationInfo', 'packages',
                   'relationships'}
PACKAGE_FIELDS = {'SPDXID', 'name', 'versionInfo', 'downloadLocation', 'filesAnalyzed', 'licenseConcluded',
                  'licenseDeclared', 'copyrightText'}


def sbom(*words):
    return subprocess.run([SBOM, *words, node.BUILD], capture_output=True, text=True, check=True).stdout


@unittest.skipUnless(shutil.which('dpkg-query') and shutil.which('readelf'), 'packages are known to dpkg only')
class Sbom(unittest.TestCase):
    def test_it_is_valid_spdx(self):
        document = json.loads(sbom())
        self.assertEqual(DOCUMENT_FIELDS - set(document), set())
        self.assertEqual((document['spdxVersion'], document['dataLicense'], document['SPDXID']),
                         ('SPDX-2.3', 'CC0-1.0', 'SPDXRef-DOCUMENT'))
        self.assertRegex(document['creationInfo']['created'], r'^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$')
        self.assertTrue(document['creationInfo']['creators'])
        self.assertRegex(document['documentNamespace'], r'^https://[^#]+$')
        ids = [package['SPDXID'] for package in document['packages']]
        self.assertEqual(len(ids), len(set(ids)))
        for package in document['packages']:
            self.assertEqual(PACKAGE_FIELDS - set(package), set(), package['name'])
            self.assertRegex(package['SPDXID'], r'^SPDXRef-[A-Za-z0-9.-]+$')
            self.assertTrue(package['versionInfo'], package['name'])
        known = set(ids) | {'SPDXRef-DOCUMENT'}
        for relation in document['relationships']:
            self.assertLessEqual({relation['spdxElementId'], relation['relatedSpdxElement']}, known)
        described = [r['relatedSpdxElement'] for r in document['relationships'] if r['relationshipType'] == 'DESCRIBES']
        self.assertEqual(described, ['SPDXRef-kvtier'])
        self.assertEqual(sbom(), sbom(), 'the same build gives the same list')

    def test_libkvtier_links_nothing_but_libc(self):
        output = subprocess.run(['readelf', '-d', os.path.join(node.BUILD, 'libkvtier.so')], capture_output=True,
                                text=True, check=True).stdout
        needed = re.findall(r'\(NEEDED\).*\[(.*)\]', output)
        self.assertLessEqual(set(needed), {'libc.so.6', 'ld-linux-x86-64.so.2', 'ld-linux-aarch64.so.1'})

    def test_the_document_names_what_is_linked(self):
        with open(os.path.join(node.TOP, 'docs/DEPENDENCIES.md'), encoding='utf-8') as file:
            named = set(re.findall(r'^\| (lib\S+|zlib1g) \|', file.read(), re.M))
        linked = {line.split('|')[1].strip() for line in sbom('--markdown').splitlines()}
        self.assertEqual(linked - named, set(), 'linked, and not in docs/DEPENDENCIES.md')


if __name__ == '__main__':
    unittest.main()
