"""Medians, spreads and the table; the schema of bench/measures.h, with `rival` and `note`."""
import json
import statistics

PLACES = 4


def quartiles(samples):
    if len(samples) < 2:
        return None
    low, _, high = statistics.quantiles(samples, n=4, method='inclusive')
    return [low, high]


class Row:
    """One row of the comparison: the samples of every peer, in rounds."""

    def __init__(self, name, unit, better):
        self.name, self.unit, self.better = name, unit, better
        self.samples, self.notes = {}, {}

    def add(self, peer, value):
        self.samples.setdefault(peer, []).append(value)

    def note(self, peer, text):
        self.notes.setdefault(peer, text)
        self.samples.setdefault(peer, [])

    def values(self, peer):
        return [value for value in self.samples.get(peer, ()) if value is not None]

    def median(self, peer):
        values = self.values(peer)
        # A peer that did not answer in most rounds has no figure: the others would flatter it.
        if not values or 2 * len(values) <= len(self.samples[peer]):
            return None
        return statistics.median(values)

    def best_rival(self):
        rivals = {peer: self.median(peer) for peer in self.samples
                  if not peer.startswith(('kvtier', 'plain'))}
        rivals = {peer: value for peer, value in rivals.items() if value is not None}
        pick = max if self.better == 'more' else min
        return pick(rivals, key=rivals.get) if rivals else None

    def ratios(self, rival):
        pairs = zip(self.samples['kvtier'], self.samples[rival])
        return [ours / theirs for ours, theirs in pairs
                if ours is not None and theirs is not None and theirs > 0]

    def ahead(self):
        ours, rival = self.median('kvtier'), self.best_rival()
        if ours is None:
            return rival or '-'
        if rival is None:
            return 'kvtier'
        theirs = self.median(rival)
        if ours == theirs:
            return 'equal'
        return 'kvtier' if (ours > theirs) == (self.better == 'more') else rival

    def measures(self):
        for peer, samples in self.samples.items():
            values = self.values(peer)
            measure = {'name': f'{peer}_{self.name}', 'value': self.median(peer),
                       'unit': self.unit, 'ceiling': None, 'ratio': None, 'goal': None,
                       'better': self.better, 'samples': len(samples),
                       'spread': quartiles(values)}
            rival = self.best_rival()
            if peer == 'kvtier' and rival is not None:
                ratios = self.ratios(rival)
                measure['rival'] = rival
                measure['ceiling'] = self.median(rival)
                measure['goal'] = 1.0
                if ratios:
                    measure['ratio'] = statistics.median(ratios)
                    measure['spread'] = quartiles(ratios)
            if peer in self.notes:
                measure['note'] = self.notes[peer]
            yield measure


def text_of(value):
    return '-' if value is None else f'{value:.{PLACES}g}'


def table_print(rows):
    """Row by row: our value, the rivals' with the best first, who is ahead, and by how much."""
    print(f'{"row":<18} {"unit":<7} {"kvtier":>9}  {"ratio":>7} {"spread":>15}  '
          f'{"ahead":<12} rivals')
    for row in rows:
        ours = next((measure for measure in row.measures()
                     if measure['name'] == f'kvtier_{row.name}'), None)
        ratio = spread = '-'
        if ours is not None and ours['ratio'] is not None:
            ratio = f'{ours["ratio"]:.2f}x'
            if ours['spread']:
                spread = '..'.join(f'{value:.2f}' for value in ours['spread'])
        rivals = sorted((peer for peer in row.samples if peer != 'kvtier'),
                        key=lambda peer: (row.median(peer) is None, row.median(peer) or 0),
                        reverse=False)
        if row.better == 'more':
            rivals.sort(key=lambda peer: -(row.median(peer) or 0))
        words = ', '.join(f'{peer} {text_of(row.median(peer))}' for peer in rivals)
        print(f'{row.name:<18} {row.unit:<7} {text_of(row.median("kvtier")):>9}  {ratio:>7} '
              f'{spread:>15}  {row.ahead():<12} {words}')
    for row in rows:
        for peer, text in row.notes.items():
            print(f'  {row.name}, {peer}: {text}')


def write(rows, version, about, path):
    measures = [measure for row in rows for measure in row.measures()]
    with open(path, 'w', encoding='utf-8') as file:
        json.dump({'benchmark': 'rivals', 'version': version, **about, 'measures': measures},
                  file, indent=2)
        file.write('\n')
