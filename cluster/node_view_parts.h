/* cluster/node_view_parts.h: shared by node_view.c, which puts messages in their order, and
 * node_picture.c, which does what they say. */
#ifndef KVTIER_CLUSTER_NODE_VIEW_PARTS_H
#define KVTIER_CLUSTER_NODE_VIEW_PARTS_H

#include "cluster/node_view.h"
#include "cluster/stream.h"

#define TIERS_OF_FIGURES (INVENTORY_TIERS_ALL + 1)

struct view_space {
	uint8_t fingerprint[INVENTORY_SPACE_BYTES];
	uint16_t source;            /* ROUTE_SOURCE_NONE: the index had none */
};

struct view_engine {
	char tenant[INVENTORY_NAME_BYTES_MAX + 1], name[INVENTORY_NAME_BYTES_MAX + 1];
	uint64_t heard_us;          /* 0: there is none here */
	uint32_t tokens_per_block;
	uint32_t spaces_count;
	uint8_t spaces[NODE_ENGINE_SPACES_MAX][INVENTORY_SPACE_BYTES];
};

/* All spaces, as known. */
struct picture {
	struct view_space *spaces;  /* NODE_SPACES_MAX */
	uint32_t count;
};

/* A piece of a snapshot that waits for messages before it. */
struct piece {
	uint64_t sequence;
	uint64_t first, next, end;
	void *payload;
	size_t bytes;
};

struct node_view {
	struct node_view_config config;
	struct inventory_head head;
	bool has_head;              /* it is known which epoch goes on */
	struct picture live, coming;
	struct view_engine *engines; /* NODE_ENGINES_MAX */
	struct stream *stream;
	struct node_view_figures figures;
	/* The snapshot. */
	uint64_t cursor;            /* from here on nothing is known */
	bool has_pieces;            /* the first has been taken */
	uint32_t pieces_asked;      /* that the last question still lets come */
	uint64_t piece_asked_us;    /* 0: not asked */
	struct piece pieces[NODE_PIECES_WAITING_MAX];
	uint32_t pieces_first, pieces_count;
	/* Gaps. */
	uint64_t gap_us;            /* since when there is one; 0: none */
	uint64_t replay_us, replay_first;  /* 0: not asked */
	/* Sums that differ. */
	uint64_t differs_us;        /* since when it is known; 0: they do not */
	uint64_t differed_us;       /* at last */
	uint64_t pause_us;          /* before the next snapshot for it */
	uint64_t snapshot_us;       /* when the last one began */
	uint64_t now_us;
	bool has_values[TIERS_OF_FIGURES][INVENTORY_FIGURES];
	uint64_t values[TIERS_OF_FIGURES][INVENTORY_FIGURES];
};

/* Its sources are dropped; it is empty. */
void picture_drop(struct node_view *view, struct picture *picture);
struct view_space *picture_find(const struct picture *picture, const uint8_t *fingerprint);
/* What a good message says. -EPROTO: it says something that nobody can mean; what came before that
 * was done. */
must_check int picture_apply(struct node_view *view, struct picture *picture, const void *payload,
			     size_t bytes);

#endif
