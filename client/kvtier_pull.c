/*
 * client/kvtier_pull.c: the engine's device memory is lent to the daemon, and by the words that are
 * shared with the process that copies it is known when blocks are left alone, whatever became of
 * the daemon.
 */
#include "client/client.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

_Static_assert(CLIENT_JOBS_MAX <= JOB_WORDS, "each job has a word");

static int words_open(struct job_words **out_words, int *out_fd, struct error *error)
{
	int fd = memfd_create("kvtier-job-words", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct job_words *words = MAP_FAILED;

	if (fd >= 0 && ftruncate(fd, sizeof(*words)) == 0 &&
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
		words = mmap(NULL, sizeof(*words), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (words == MAP_FAILED) {
		int result = error_set(error, -errno, "no memory for the words of jobs: %s",
				       strerror(errno));

		if (fd >= 0)
			close(fd);
		return result;
	}
	(void)madvise(words, sizeof(*words), MADV_DONTFORK);
	*out_words = words;
	*out_fd = fd;
	return 0;
}

static int lent_create(struct lent **out_lent, int *out_words_fd, struct error *error)
{
	struct lent *lent = calloc(1, sizeof(*lent));
	int result;

	if (lent == NULL)
		return error_set(error, -ENOMEM, "no memory to lend memory");
	result = words_open(&lent->words, out_words_fd, error);
	if (result < 0) {
		free(lent);
		return result;
	}
	lent->holds = 1;
	lent->process_fd = -1;
	*out_lent = lent;
	return 0;
}

void lent_hold(struct lent *lent)
{
	assert(lent->holds > 0);
	lent->holds++;
}

void lent_release(struct lent *lent)
{
	if (lent == NULL)
		return;
	assert(lent->holds > 0);
	if (--lent->holds > 0)
		return;
	munmap(lent->words, sizeof(*lent->words));
	if (lent->process_fd >= 0)
		close(lent->process_fd);
	free(lent);
}

/* A pidfd is readable once its process has ended, reaped or not. */
static bool process_has_ended(int process_fd)
{
	struct pollfd fd = { .fd = process_fd, .events = POLLIN };

	return poll(&fd, 1, 0) == 1 && (fd.revents & POLLIN) != 0;
}

bool lent_is_quiet(struct lent *lent, uint32_t place, uint64_t job)
{
	struct job_word *word = &lent->words->words[place];

	assert(place < JOB_WORDS && job > 0);
#ifndef KVTIER_PLANT_QUIET
	job_word_stop(word, job);
#endif
	return job_word_is_quiet(word) || process_has_ended(lent->process_fd);
}

struct frame_pull pull_of(const struct kvtier_client *client, const struct job *job)
{
	return (struct frame_pull){ .gate_value = job->gate_value,
				    .job = job->id,
				    .job_place = (uint32_t)(job - client->jobs) };
}

/* What is readable before that process ends would let blocks be used under its hands. */
static int process_check(int fd, struct error *error)
{
	if (fd < 0)
		return error_set(error, -EPROTO,
				 "the daemon did not send the descriptor of its GPU's process");
	/* Signal 0 does nothing. Where it may not be sent, there is no -EBADF either. */
	if (syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0) < 0 && errno == EBADF)
		return error_set(error, -EPROTO,
				 "what the daemon sent is no descriptor of its GPU's process");
	return 0;
}

static int lend_send(struct kvtier_client *client, int words_fd, struct error *error)
{
	const struct lending *lending = &client->lending;
	struct link *link = &client->copier.link;
	struct frame_lend *frame = (struct frame_lend *)link->outgoing;
	int fds[1 + LEND_FDS_MAX];
	int result;

	frame_start(&frame->header, FRAME_LEND,
		    (uint32_t)sizeof(*frame) + lending->packet_bytes, ++link->request,
		    link->boot_id);
	memcpy(frame + 1, lending->packet, lending->packet_bytes);
	fds[0] = words_fd;
	memcpy(fds + 1, lending->fds, lending->fds_count * sizeof(fds[0]));
	result = link_send_fds(link, frame, fds, 1 + lending->fds_count);
	return result < 0 ? error_set(error, result, "cannot send what is lent: %s",
				      strerror(-result))
			  : 0;
}

/* LENT, and the descriptor that comes with it. */
static int lend_await(struct kvtier_client *client, struct lent *lent, struct error *error)
{
	struct link *link = &client->copier.link;
	const struct frame_lent *reply = (const struct frame_lent *)link->incoming;
	int fds[2] = { -1, -1 };
	int result = link_await(link, FRAME_LENT, client_deadline_us(CLIENT_LEND_US), fds, error);

	lent->process_fd = fds[0];
	if (fds[1] >= 0)
		close(fds[1]);
	if (result < 0)
		return result;
	lent->has_word = client->lending.has_word && reply->has_word != 0;
	return process_check(lent->process_fd, error);
}

int pull_lend(struct kvtier_client *client, struct lent **out_lent, struct error *error)
{
	struct lent *lent = NULL;
	int words_fd = -1, result;

	if ((client->copier.link.features & FRAME_FEATURE_PULL) == 0)
		return error_set(error, -ENODEV,
				 "the daemon has no GPU switched on: setting gpus");
	result = lent_create(&lent, &words_fd, error);
	if (result < 0)
		return result;
	result = lend_send(client, words_fd, error);
	close(words_fd);
	if (result == 0)
		result = lend_await(client, lent, error);
	if (result < 0) {
		lent_release(lent);
		return result;
	}
	*out_lent = lent;
	return 0;
}
