/* cluster/node_view.c: see node_view.h. */
#include "cluster/node_view_parts.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- a snapshot ---- */

static void piece_drop(struct node_view *view)
{
	free(view->pieces[view->pieces_first].payload);
	view->pieces_first = (view->pieces_first + 1) % NODE_PIECES_WAITING_MAX;
	view->pieces_count--;
}

/* From the beginning; what was known stays in use. */
static void snapshot_begin(struct node_view *view)
{
	picture_drop(view, &view->coming);
	while (view->pieces_count > 0)
		piece_drop(view);
	view->figures.state = NODE_COUNTING;
	view->figures.short_entries = 0;
	view->cursor = 0;
	view->snapshot_us = view->now_us;
	view->has_pieces = false;
	view->piece_asked_us = 0;
}

/* Another epoch: numbers begin anew. */
static void epoch_begin(struct node_view *view, const struct inventory_head *head, uint64_t next)
{
	view->head = *head;
	view->has_head = true;
	view->gap_us = view->replay_us = 0;
	stream_begin(view->stream, next);
	snapshot_begin(view);
}

static void piece_ask(struct node_view *view)
{
	uint8_t question[INVENTORY_ASK_BYTES_MAX];

	view->piece_asked_us = view->now_us;
	view->pieces_asked = INVENTORY_PIECES_MAX;
	view->config.ask(view->config.owner, question,
			 inventory_ask_write(question, view->cursor));
}

/* ---- messages in their order ---- */

/* A message that has all the marks of a good one, and is none. */
static void nonsense(struct node_view *view)
{
	view->figures.garbled++;
	if (view->differs_us == 0)
		view->differs_us = view->now_us;
}

/* All that has come, up to `end`. False: one of them has not. */
static bool follow(struct node_view *view, struct picture *picture, uint64_t end)
{
	const void *payload;
	size_t bytes;

	while (stream_next(view->stream) < end) {
		payload = stream_peek(view->stream, &bytes);
		if (payload == NULL)
			return false;
		if (picture_apply(view, picture, payload, bytes) < 0)
			nonsense(view);
		stream_pass(view->stream);
	}
	return true;
}

static void snapshot_end(struct node_view *view)
{
	struct picture before = view->live;

	view->live = view->coming;
	view->coming = before;
	picture_drop(view, &view->coming);
	view->figures.state = NODE_FOLLOWING;
	view->figures.is_whole = true;
	view->figures.snapshots++;
	view->differs_us = 0;
}

/* Each behind all the messages that are in it. */
static void pieces_take(struct node_view *view)
{
	while (view->figures.state == NODE_COUNTING && view->pieces_count > 0) {
		struct piece *piece = &view->pieces[view->pieces_first];

		if (!view->has_pieces)
			stream_skip(view->stream, piece->sequence + 1);
		view->has_pieces = true;
		if (!follow(view, &view->coming, piece->sequence + 1))
			return;
		if (picture_apply(view, &view->coming, piece->payload, piece->bytes) < 0)
			nonsense(view);
		view->cursor = piece->next;
		bool is_last = piece->next >= piece->end;
		piece_drop(view);
		if (is_last)
			snapshot_end(view);
	}
}

static void work(struct node_view *view)
{
	pieces_take(view);
	if (view->figures.state == NODE_FOLLOWING)
		(void)follow(view, &view->live, UINT64_MAX);
}

/* Its head, if it is a message at all, and of now. */
static bool is_good(struct node_view *view, const void *payload, size_t bytes,
		    struct inventory_head *out_head)
{
	struct inventory_reader reader;
	struct error error;

	if (bytes > INVENTORY_PAYLOAD_BYTES_MAX ||
	    inventory_read(&reader, payload, bytes, out_head, &error) < 0) {
		view->figures.garbled++;
		return false;
	}
	/* Of an epoch before this one: late. */
	return !view->has_head || out_head->boot != view->head.boot ||
	       out_head->epoch >= view->head.epoch;
}

static bool is_of_now(const struct node_view *view, const struct inventory_head *head)
{
	return view->has_head && head->boot == view->head.boot && head->epoch == view->head.epoch;
}

void node_view_heard(struct node_view *view, uint64_t sequence, const void *payload, size_t bytes,
		     uint64_t now_us)
{
	struct inventory_head head;

	view->now_us = now_us;
	if (!is_good(view, payload, bytes, &head))
		return;
	view->figures.heard_us = now_us;
	view->figures.messages++;
	if (!is_of_now(view, &head))
		epoch_begin(view, &head, sequence);
	(void)stream_put(view->stream, sequence, payload, bytes);
	work(view);
}

/* ---- answers ---- */

/* False: it is no piece. */
static bool piece_read(const void *payload, size_t bytes, struct piece *out_piece)
{
	struct inventory_statement statement;
	struct inventory_reader reader;
	struct inventory_head head;
	struct error error;

	if (inventory_read(&reader, payload, bytes, &head, &error) < 0)
		return false;
	while (inventory_next(&reader, &statement) == 1)
		if (statement.kind == INVENTORY_PIECE) {
			out_piece->first = statement.values[0];
			out_piece->next = statement.values[1];
			out_piece->end = statement.values[2];
			return true;
		}
	return false;
}

/* Where the next piece has to begin: behind those that wait. */
static uint64_t pieces_end(const struct node_view *view)
{
	uint32_t last = view->pieces_first + view->pieces_count - 1;

	return view->pieces_count == 0 ? view->cursor
				       : view->pieces[last % NODE_PIECES_WAITING_MAX].next;
}

/* One that was asked for twice, or is behind one that was lost, is passed over: what is missing is
 * asked for when nothing has come for a while. So is one that is older than what was passed. */
static bool piece_fits(const struct node_view *view, const struct piece *piece)
{
	return view->figures.state == NODE_COUNTING && piece->first == pieces_end(view) &&
	       (piece->next > piece->first || piece->next >= piece->end) &&
	       piece->sequence + 1 >= stream_next(view->stream) &&
	       view->pieces_count < NODE_PIECES_WAITING_MAX;
}

static void piece_answered(struct node_view *view, struct piece *piece, const void *payload,
			   size_t bytes)
{
	uint32_t place = (view->pieces_first + view->pieces_count) % NODE_PIECES_WAITING_MAX;

	if (!piece_fits(view, piece))
		return;
	piece->payload = malloc(bytes);
	if (piece->payload == NULL)
		return;
	memcpy(piece->payload, payload, bytes);
	piece->bytes = bytes;
	view->pieces[place] = *piece;
	view->pieces_count++;
	view->piece_asked_us = view->now_us;
	work(view);
	if (view->pieces_asked > 0 && --view->pieces_asked == 0 &&
	    view->figures.state == NODE_COUNTING && view->pieces_count == 0)
		piece_ask(view);
}

/* A message before one that has come, or that a piece which waits is behind. Before the first
 * piece it is not known what is wanted. */
static bool is_missing(const struct node_view *view, uint64_t *out_first)
{
	if (view->figures.state == NODE_COUNTING && !view->has_pieces)
		return false;
	if (stream_gap(view->stream, out_first))
		return true;
	return view->figures.state == NODE_COUNTING && view->pieces_count > 0 &&
	       view->pieces[view->pieces_first].sequence >= *out_first;
}

static void replay_ask(struct node_view *view, uint64_t first)
{
	uint8_t question[INVENTORY_SEQUENCE_BYTES];

	for (unsigned i = 0; i < sizeof(question); i++)
		question[i] = (uint8_t)(first >> (8 * (sizeof(question) - 1 - i)));
	view->replay_us = view->now_us;
	view->replay_first = first;
	view->figures.replays++;
	view->config.ask(view->config.owner, question, sizeof(question));
}

/* What is missing still is not kept there any more; or there was more than one answer has. */
static void replay_ended(struct node_view *view)
{
	uint64_t first;

	if (view->replay_us == 0)
		return;
	view->replay_us = 0;
	if (!is_missing(view, &first))
		return;
	if (first != view->replay_first)
		replay_ask(view, first);
	else
		snapshot_begin(view);
}

void node_view_answered(struct node_view *view, uint64_t sequence, const void *payload,
			size_t bytes, uint64_t now_us)
{
	struct piece piece = { .sequence = sequence };
	struct inventory_head head;

	view->now_us = now_us;
	if (sequence == INVENTORY_SEQUENCE_END) {
		replay_ended(view);
		return;
	}
	if (!is_good(view, payload, bytes, &head))
		return;
	view->figures.heard_us = now_us;
	if (!is_of_now(view, &head))
		epoch_begin(view, &head, sequence + 1);
	if (piece_read(payload, bytes, &piece)) {
		piece_answered(view, &piece, payload, bytes);
		return;
	}
	(void)stream_put(view->stream, sequence, payload, bytes);
	work(view);
}

/* ---- the pass ---- */

static void gap_step(struct node_view *view)
{
	uint64_t first;

	if (!is_missing(view, &first)) {
		view->gap_us = 0;
		return;
	}
	if (view->gap_us == 0) {
		view->gap_us = view->now_us;
		view->figures.gaps++;
	}
	if (view->now_us - view->gap_us >= NODE_GAP_US &&
	    (view->replay_us == 0 || view->now_us - view->replay_us >= NODE_QUESTION_US))
		replay_ask(view, first);
}

/* What differs is counted anew, ever less often while that does not help; and what the index had
 * no room for, as it may have by now. */
static void difference_step(struct node_view *view)
{
	if (view->pause_us > 0 && view->now_us - view->differed_us > 2 * view->pause_us)
		view->pause_us = 0;
	if (view->figures.state != NODE_FOLLOWING)
		return;
	bool is_due = view->differs_us != 0 && view->now_us - view->differs_us >= view->pause_us;
	if (is_due) {
		view->pause_us = view->pause_us == 0 ? NODE_SNAPSHOT_US_MIN : view->pause_us * 2;
		if (view->pause_us > NODE_SNAPSHOT_US_MAX)
			view->pause_us = NODE_SNAPSHOT_US_MAX;
	}
	if (is_due || (view->figures.short_entries > 0 &&
		       view->now_us - view->snapshot_us >= NODE_SNAPSHOT_US_MAX))
		snapshot_begin(view);
}

void node_view_step(struct node_view *view, uint64_t now_us)
{
	view->now_us = now_us;
	difference_step(view);
	gap_step(view);
	if (view->figures.state == NODE_COUNTING && view->pieces_count == 0 &&
	    (view->piece_asked_us == 0 || now_us - view->piece_asked_us >= NODE_QUESTION_US))
		piece_ask(view);
}

/* ---- the rest ---- */

int node_view_create(struct node_view **out_view, const struct node_view_config *config,
		     struct error *error)
{
	struct node_view *view = calloc(1, sizeof(*view));
	int result = view == NULL ? -ENOMEM : stream_create(&view->stream, error);

	if (result == 0) {
		view->live.spaces = calloc(NODE_SPACES_MAX, sizeof(struct view_space));
		view->coming.spaces = calloc(NODE_SPACES_MAX, sizeof(struct view_space));
		view->engines = calloc(NODE_ENGINES_MAX, sizeof(struct view_engine));
		view->config = *config;
		snapshot_begin(view);
	}
	if (result < 0 || view->live.spaces == NULL || view->coming.spaces == NULL ||
	    view->engines == NULL) {
		node_view_destroy(view);
		return error_set(error, -ENOMEM, "no memory to follow a node");
	}
	*out_view = view;
	return 0;
}

void node_view_destroy(struct node_view *view)
{
	if (view == NULL)
		return;
	picture_drop(view, &view->live);
	picture_drop(view, &view->coming);
	while (view->pieces_count > 0)
		piece_drop(view);
	stream_destroy(view->stream);
	free(view->live.spaces);
	free(view->coming.spaces);
	free(view->engines);
	free(view);
}

uint16_t node_view_source(const struct node_view *view,
			  const uint8_t fingerprint[INVENTORY_SPACE_BYTES])
{
	const struct view_space *space = picture_find(&view->live, fingerprint);

	return space != NULL ? space->source : ROUTE_SOURCE_NONE;
}

bool node_view_engine(const struct node_view *view, const char *tenant, const char *name,
		      struct node_engine *out_engine)
{
	for (uint32_t i = 0; i < NODE_ENGINES_MAX; i++) {
		const struct view_engine *engine = &view->engines[i];

		if (engine->heard_us == 0 || strcmp(engine->name, name) != 0 ||
		    strcmp(engine->tenant, tenant) != 0)
			continue;
		if (view->now_us - engine->heard_us > NODE_SILENT_US)
			return false;
		out_engine->tokens_per_block = engine->tokens_per_block;
		out_engine->heard_us = engine->heard_us;
		out_engine->sources_count = engine->spaces_count;
		for (uint32_t n = 0; n < engine->spaces_count; n++)
			out_engine->sources[n] = node_view_source(view, engine->spaces[n]);
		return true;
	}
	return false;
}

bool node_view_figure(const struct node_view *view, unsigned tier, enum inventory_figure figure,
		      uint64_t *out_value)
{
	assert(tier <= INVENTORY_TIERS_ALL && figure < INVENTORY_FIGURES);
	*out_value = view->values[tier][figure];
	return view->has_values[tier][figure];
}

void node_view_look(const struct node_view *view, struct node_view_figures *out_figures)
{
	uint64_t entries, digest;

	*out_figures = view->figures;
	out_figures->boot = view->head.boot;
	out_figures->epoch = view->head.epoch;
	out_figures->next = stream_next(view->stream);
	for (uint32_t i = 0; i < view->live.count; i++)
		if (view->live.spaces[i].source != ROUTE_SOURCE_NONE) {
			route_source_look(view->config.index, view->live.spaces[i].source,
					  &entries, &digest);
			out_figures->entries += entries;
		}
}
