/* client/kvtier_attach.c: the data connection: its mappings, and the proof that both sides see the
 * same memory. */
#include "base/checksum.h"
#include "base/map.h"
#include "base/random.h"
#include "client/client.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

void copier_unmap(struct copier *copier)
{
	if (copier->arena != NULL)
		munmap(copier->arena, copier->arena_bytes);
	if (copier->window_memory != NULL)
		munmap(copier->window_memory, copier->window_bytes);
	copier->arena = copier->window_memory = NULL;
	copier->arena_bytes = copier->window_bytes = 0;
}

/* Maps `bytes` of what the daemon sent, if there really are so many: reading beyond a file's end
 * would kill us. */
static int map_shared(int fd, uint64_t bytes, int protection, const char *name,
		      uint8_t **out_memory, struct error *error)
{
	struct stat status;
	void *memory;

	if (fd < 0)
		return error_set(error, -EPROTO, "the daemon did not send the descriptor of the %s",
				 name);
	if (fstat(fd, &status) < 0)
		return error_set(error, -errno, "the %s: fstat: %s", name, strerror(errno));
	if (bytes == 0 || bytes > CLIENT_MAPPING_BYTES_MAX || (uint64_t)status.st_size < bytes)
		return error_set(error, -EPROTO, "the %s should have %llu bytes, its file has %llu",
				 name, (unsigned long long)bytes,
				 (unsigned long long)status.st_size);
	memory = map_shared_aligned(fd, bytes, protection);
	if (memory == MAP_FAILED)
		return error_set(error, -errno, "cannot map the %s: %s", name, strerror(errno));
	(void)madvise(memory, bytes, MADV_DONTFORK);
	*out_memory = memory;
	return 0;
}

static int check_arena(const struct copier *copier, const struct frame_attached *attached,
		       struct error *error)
{
	uint32_t crc;

	if (attached->arena_units_offset > attached->arena_bytes ||
	    attached->arena_units_offset % SLOT_ALIGN_BYTES != 0 ||
	    attached->arena_bytes < CLIENT_CANARY_BYTES ||
	    attached->canary_offset > attached->arena_bytes - CLIENT_CANARY_BYTES)
		return error_set(error, -EPROTO,
				 "the arena's units or canary lie outside its %llu bytes",
				 (unsigned long long)attached->arena_bytes);
	crc = crc32c(copier->arena + attached->canary_offset, CLIENT_CANARY_BYTES);
	if (crc != attached->canary_crc)
		return error_set(
			error, -EBADMSG,
			"the arena's canary reads %08x, the daemon says %08x: not the same "
			"memory",
			crc, attached->canary_crc);
	return 0;
}

static int map_both(struct copier *copier, const struct frame_attached *attached, const int fds[2],
		    struct error *error)
{
	const int seals_wanted = F_SEAL_SHRINK | F_SEAL_GROW;
	int result = map_shared(fds[0], attached->arena_bytes, PROT_READ, "arena", &copier->arena,
				error);

	if (result < 0)
		return result;
	copier->arena_bytes = attached->arena_bytes;
	copier->units_offset = attached->arena_units_offset;
	result = check_arena(copier, attached, error);
	if (result < 0)
		return result;
	if (fds[1] < 0 || (fcntl(fds[1], F_GET_SEALS) & seals_wanted) != seals_wanted)
		return error_set(error, -EPROTO,
				 "the window is not sealed against shrinking and growing");
	result = map_shared(fds[1], attached->window_bytes, PROT_READ | PROT_WRITE, "window",
			    &copier->window_memory, error);
	if (result < 0)
		return result;
	copier->window_bytes = attached->window_bytes;
	if (copier->window_bytes < CLIENT_CANARY_BYTES)
		return error_set(error, -EPROTO, "the window has %llu bytes only",
				 (unsigned long long)copier->window_bytes);
	return 0;
}

/* Writes a canary into the window and lets the daemon say whether it sees it. */
static int prove_window(struct copier *copier, uint64_t deadline_us, struct error *error)
{
	struct frame_canary frame;

	random_system(copier->window_memory, CLIENT_CANARY_BYTES);
	memset(&frame, 0, sizeof(frame));
	frame_start(&frame.header, FRAME_CANARY, sizeof(frame), 0, 0);
	frame.crc = crc32c(copier->window_memory, CLIENT_CANARY_BYTES);
	return link_ask(&copier->link, &frame, FRAME_DONE, deadline_us, error);
}

static int attach_and_map(struct copier *copier, uint64_t token, uint64_t deadline_us,
			  struct error *error)
{
	struct frame_attach frame;
	struct frame_attached attached;
	int fds[2] = { -1, -1 };
	int result;

	memset(&frame, 0, sizeof(frame));
	frame_start(&frame.header, FRAME_ATTACH, sizeof(frame), 0, 0);
	frame.engine_token = token;
	result = link_ask_fds(&copier->link, &frame, FRAME_ATTACHED, deadline_us, fds, error);
	if (result == 0) {
		memcpy(&attached, copier->link.incoming, sizeof(attached));
		result = map_both(copier, &attached, fds, error);
	}
	for (unsigned i = 0; i < 2; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	return result < 0 ? result : prove_window(copier, deadline_us, error);
}

/* As much of the window as keeps the daemon busy, and no more: what was copied into it is then
 * still in the CPU's caches when a mill takes it out. Two of the largest blocks at least. */
static uint64_t window_bytes_used(const struct kvtier_client *client)
{
	uint64_t bytes = CLIENT_WINDOW_HOT_BYTES;

	for (unsigned i = 0; i < client->groups_count; i++) {
		uint64_t two = 2 * (client->groups[i].frame.payload_bytes + CLIENT_WINDOW_ALIGN);

		bytes = two > bytes ? two : bytes;
	}
	return bytes < client->copier.window_bytes ? bytes : client->copier.window_bytes;
}

/* Every store by push goes through it: what is used of it is there from the beginning, in huge
 * pages where the kernel can. Best effort; it is the copy thread that waits for it. */
static void window_prepare(struct kvtier_client *client)
{
	struct copier *copier = &client->copier;

	window_init(&copier->window, window_bytes_used(client));
	if (!client_is_pulled(client))
		map_populate(copier->window_memory, copier->window.bytes);
}

int copier_attach(struct kvtier_client *client, struct error *error)
{
	struct copier *copier = &client->copier;
	const struct frame_hello_reply *hello = (const struct frame_hello_reply *)
							copier->link.incoming;
	uint64_t deadline_us = client_deadline_us(CLIENT_CONNECT_US);
	uint64_t token, boot_id, session;
	struct lent *lent = NULL;
	int result;

	assert(copier->session == 0);
	pthread_mutex_lock(&client->lock);
	token = client->engine_token;
	boot_id = client->boot_id;
	session = client->session;
	pthread_mutex_unlock(&client->lock);
	result = link_open(&copier->link, client->socket, FRAME_DATA, deadline_us, error);
	if (result < 0)
		return result;
	copier->batches_max = hello->batches_max < 1 ? 1 : hello->batches_max;
	if (copier->link.boot_id != boot_id)
		result = error_set(error, -ECONNRESET,
				   "the daemon was restarted between our two connections");
	if (result == 0)
		result = attach_and_map(copier, token, deadline_us, error);
	if (result == 0 && client_is_pulled(client))
		result = pull_lend(client, &lent, error);
	if (result < 0) {
		link_close(&copier->link);
		copier_unmap(copier);
		return result;
	}
	pthread_mutex_lock(&client->lock);
	assert(client->lent == NULL);
	client->lent = lent;
	pthread_mutex_unlock(&client->lock);
	window_prepare(client);
	copier->batches_count = 0;
	copier->outgoing_bytes = 0;
	copier->session = session;
	return 0;
}
