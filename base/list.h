/* base/list.h: a doubly linked list whose nodes lie inside what they link. For one thread. */
#ifndef KVTIER_BASE_LIST_H
#define KVTIER_BASE_LIST_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct list_node {
	struct list_node *previous;
	struct list_node *next;
};

struct list {
	struct list_node head; /* its next is the first, its previous the last */
	uint64_t count;
};

#define list_item(node, type, member) ((type *)((char *)(node) - offsetof(type, member)))

static inline void list_init(struct list *list)
{
	list->head.previous = &list->head;
	list->head.next = &list->head;
	list->count = 0;
}

static inline bool list_is_empty(const struct list *list)
{
	return list->count == 0;
}

static inline void list_insert_between(struct list *list, struct list_node *node,
				       struct list_node *previous, struct list_node *next)
{
	node->previous = previous;
	node->next = next;
	previous->next = node;
	next->previous = node;
	list->count++;
}

static inline void list_append(struct list *list, struct list_node *node)
{
	list_insert_between(list, node, list->head.previous, &list->head);
}

static inline void list_prepend(struct list *list, struct list_node *node)
{
	list_insert_between(list, node, &list->head, list->head.next);
}

static inline void list_remove(struct list *list, struct list_node *node)
{
	assert(list->count > 0);
	assert(node->next != NULL);
	node->previous->next = node->next;
	node->next->previous = node->previous;
	node->previous = NULL;
	node->next = NULL;
	list->count--;
}

/* The first node, or NULL. Borrowed. */
static inline struct list_node *list_first(struct list *list)
{
	return list->count == 0 ? NULL : list->head.next;
}

/* The node behind `node`, or NULL at the end. Borrowed. */
static inline struct list_node *list_after(struct list *list, struct list_node *node)
{
	return node->next == &list->head ? NULL : node->next;
}

/* Takes the first node off the list, or NULL. */
static inline struct list_node *list_take_first(struct list *list)
{
	struct list_node *node = list_first(list);

	if (node != NULL)
		list_remove(list, node);
	return node;
}

#endif
