/*
 * client/kvtier_fork.c: what a child after fork() must leave alone. The child has copies of our
 * descriptors: they are closed there, or the daemon would not notice that the parent has gone for
 * as long as the child lives, and what is lent would stay as long. The mappings are not in the
 * child at all (MADV_DONTFORK).
 */
#include "client/client.h"

#include <unistd.h>

static pthread_mutex_t fork_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
static struct list fork_clients;

static void before_fork(void)
{
	pthread_mutex_lock(&fork_lock);
}

static void after_fork_in_parent(void)
{
	pthread_mutex_unlock(&fork_lock);
}

static void after_fork_in_child(void)
{
	struct list_node *node;

	while ((node = list_take_first(&fork_clients)) != NULL) {
		struct kvtier_client *client = list_item(node, struct kvtier_client, fork_link);
		int control_fd = atomic_exchange(&client->control.fd, -1);
		int data_fd = atomic_exchange(&client->copier.link.fd, -1);

		atomic_store(&client->is_child, true);
		if (control_fd >= 0)
			close(control_fd);
		if (data_fd >= 0)
			close(data_fd);
		lending_close_fds(&client->lending);
	}
	pthread_mutex_unlock(&fork_lock);
}

static void fork_init(void)
{
	list_init(&fork_clients);
	/* Fails for want of memory only; then children keep descriptors that they do not use. */
	(void)pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

void fork_watch(struct kvtier_client *client)
{
	pthread_once(&fork_once, fork_init);
	pthread_mutex_lock(&fork_lock);
	list_append(&fork_clients, &client->fork_link);
	pthread_mutex_unlock(&fork_lock);
}

void fork_unwatch(struct kvtier_client *client)
{
	if (client->fork_link.next == NULL)
		return;
	pthread_mutex_lock(&fork_lock);
	list_remove(&fork_clients, &client->fork_link);
	pthread_mutex_unlock(&fork_lock);
}
