// tests/system/page_checks.js: what test_page.py asks of the page in the browser. Each answers with what is wrong, in words.
const CONTRAST_MIN = 4.5;   // WCAG 2.1, AA

function layout() {
	const wrong = [], name = one => `${one.tagName} ${one.id || one.className} "${one.textContent.slice(0, 30)}"`;
	if (document.documentElement.scrollWidth > innerWidth)
		wrong.push(`the page is ${document.documentElement.scrollWidth} wide, the window ${innerWidth}`);
	const boxes = list => [...list].map(one => [one, one.getBoundingClientRect()]).filter(([, b]) => b.width > 0 && b.height > 0);
	const overlap = (list, what) => {
		for (let i = 0; i < list.length; i++)
			for (let j = i + 1; j < list.length; j++) {
				const [one, a] = list[i], [other, b] = list[j];
				if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
				    Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1)
					wrong.push(`${what}: ${name(one)} over ${name(other)}`);
			}
	};
	overlap(boxes(document.querySelectorAll('section')), 'sections');
	overlap(boxes(document.querySelector('header').children), 'header');
	for (const place of document.querySelectorAll('dl, .row, ul, .chart, .span, .scale, .legend'))
		overlap(boxes(place.children), place.id || place.className || place.tagName);
	for (const row of [...document.querySelectorAll('tr')].slice(0, 100)) overlap(boxes(row.children), 'cells');
	for (const section of document.querySelectorAll('section')) {
		const edge = section.getBoundingClientRect();
		for (const [one, b] of boxes(section.querySelectorAll('*')))
			if (!one.closest('.scroll') && (b.right > edge.right + 1 || b.left < edge.left - 1))
				wrong.push(`out of its section: ${name(one)}`);
		for (const cell of section.querySelectorAll('.scroll'))
			if (cell.scrollWidth > cell.clientWidth + 1) wrong.push(`a table is wider than its place: ${name(cell)}`);
	}
	return wrong;
}

function contrast() {
	const parse = words => words.match(/[\d.]+/g).map(Number);
	const light = ([r, g, b]) => [r, g, b].map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
		.reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
	const ground = one => { for (; one; one = one.parentElement) {
		const colour = parse(getComputedStyle(one).backgroundColor); if (colour.length < 4 || colour[3] > 0) return colour; }
		return [255, 255, 255]; };
	const low = new Set();
	for (const one of document.querySelectorAll('body *')) {
		if (![...one.childNodes].some(child => child.nodeType === 3 && child.textContent.trim()) || !one.getClientRects().length)
			continue;
		const a = light(parse(getComputedStyle(one).color)), b = light(ground(one));
		const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
		if (ratio < CONTRAST_MIN) low.add(`${one.tagName}.${one.className} "${one.textContent.slice(0, 20)}" ${ratio.toFixed(2)}`);
	}
	return [...low];
}
