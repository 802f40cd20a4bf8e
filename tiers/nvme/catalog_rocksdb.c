/*
 * tiers/nvme/catalog_rocksdb.c: the catalogue in RocksDB; the only file that speaks to it.
 *
 * Runs in a process of its own, because the library may abort on a disk error. No WAL sync: what a
 * power cut takes is found missing by the headers. The WAL is kept short (small memtables), because
 * replaying it is what a start after kill -9 costs.
 */
#include "tiers/nvme/catalog.h"

#include "base/random.h"
#include "tiers/nvme/catalog_aside.h"
#include "tiers/nvme/catalog_row.h"

#include <rocksdb/c.h>

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MEMTABLE_BYTES (UINT64_C(8) << 20)
#define MEMTABLES_MAX 2 /* so the WAL is at most two of them, and the one being filled */
#define WAL_BYTES_MAX (UINT64_C(16) << 20)
#define CACHE_BYTES                                                                                \
	(UINT64_C(8) << 20) /* nothing is ever looked up: only compaction and scans read */
#define READ_AHEAD (UINT64_C(2) << 20)
#define FILES_OPEN_MAX 256
#define LOG_BYTES_MAX (UINT64_C(1) << 20)
#define LOGS_MAX 2

/* Keys of other lengths than a row's hold what is said about the whole. */
static const char ID_KEY[] = "id", COMPLETE_KEY[] = "complete";

struct catalog {
	rocksdb_t *database;
	rocksdb_options_t *options;
	rocksdb_writeoptions_t *write_options;
	rocksdb_readoptions_t *read_options;
	struct catalog_identity identity;
	char path[];
};

/* Takes RocksDB's words over into `error`, and frees them. */
static int failed(struct error *error, int code, const char *what, char *words)
{
	int result = error_set(error, code, "%s: %s", what, words);

	rocksdb_free(words);
	return result;
}

static rocksdb_options_t *options_create(void)
{
	rocksdb_options_t *options = rocksdb_options_create();
	rocksdb_block_based_table_options_t *table = rocksdb_block_based_options_create();
	rocksdb_cache_t *cache = rocksdb_cache_create_lru(CACHE_BYTES);

	rocksdb_block_based_options_set_block_cache(table, cache);
	rocksdb_block_based_options_set_block_size(table, 16384);
	rocksdb_options_set_block_based_table_factory(options, table);
	rocksdb_block_based_options_destroy(table);
	rocksdb_cache_destroy(cache);
	rocksdb_options_set_create_if_missing(options, 1);
	rocksdb_options_set_write_buffer_size(options, MEMTABLE_BYTES);
	rocksdb_options_set_max_write_buffer_number(options, MEMTABLES_MAX);
	rocksdb_options_set_max_total_wal_size(options, WAL_BYTES_MAX);
	rocksdb_options_set_wal_recovery_mode(options, rocksdb_point_in_time_recovery);
	/* Hashes do not compress, the rest of a row does: 0.6 of the bytes, and a faster scan. */
	rocksdb_options_set_compression(options, rocksdb_lz4_compression);
	rocksdb_options_set_max_open_files(options, FILES_OPEN_MAX);
	rocksdb_options_set_max_background_jobs(options, 2);
	rocksdb_options_set_skip_stats_update_on_db_open(options, 1);
	rocksdb_options_set_stats_dump_period_sec(options, 0);
	rocksdb_options_set_info_log_level(options, 2); /* warnings */
	rocksdb_options_set_max_log_file_size(options, LOG_BYTES_MAX);
	rocksdb_options_set_keep_log_file_num(options, LOGS_MAX);
	return options;
}

/* Failures of the surroundings: another process has the lock, the disk is full. Setting the
 * database aside helps none of them. The C interface tells them by their words only. */
static bool is_not_the_databases_fault(const char *words)
{
	static const int codes[] = { EAGAIN, ENOLCK, ENOSPC, EDQUOT, EACCES,
				     EPERM,  EMFILE, ENFILE, EROFS,  ENOMEM };

	for (unsigned n = 0; n < sizeof(codes) / sizeof(codes[0]); n++)
		if (strstr(words, strerror(codes[n])) != NULL)
			return true;
	return false;
}

/* Reads the id, or makes one: then the database is new. */
static int identity_load(struct catalog *catalog, struct error *error)
{
	char *words = NULL;
	size_t bytes = 0;

	char *id = rocksdb_get(catalog->database, catalog->read_options, ID_KEY, strlen(ID_KEY),
			       &bytes, &words);
	if (words != NULL)
		return failed(error, -EUCLEAN, "cannot read the catalogue's id", words);
	if (id != NULL && bytes == sizeof(catalog->identity.id)) {
		memcpy(catalog->identity.id, id, bytes);
		rocksdb_free(id);
		char *mark = rocksdb_get(catalog->database, catalog->read_options, COMPLETE_KEY,
					 strlen(COMPLETE_KEY), &bytes, &words);
		if (words != NULL)
			return failed(error, -EUCLEAN, "cannot read the catalogue's mark", words);
		catalog->identity.is_complete = mark != NULL;
		rocksdb_free(mark);
		return 0;
	}
	rocksdb_free(id);
	random_system(catalog->identity.id, sizeof(catalog->identity.id));
	catalog->identity.is_complete = false;
	rocksdb_put(catalog->database, catalog->write_options, ID_KEY, strlen(ID_KEY),
		    (const char *)catalog->identity.id, sizeof(catalog->identity.id), &words);
	return words == NULL ? 0 : failed(error, -EIO, "cannot write the catalogue's id", words);
}

/* -EUCLEAN: the database itself is at fault. */
static int database_open(struct catalog *catalog, struct error *error)
{
	char *words = NULL;

	catalog->database = rocksdb_open(catalog->options, catalog->path, &words);
	if (words != NULL && strstr(words, "not linked") != NULL) { /* a library without lz4 */
		rocksdb_free(words);
		words = NULL;
		rocksdb_options_set_compression(catalog->options, rocksdb_no_compression);
		catalog->database = rocksdb_open(catalog->options, catalog->path, &words);
	}
	if (words != NULL)
		return failed(error, is_not_the_databases_fault(words) ? -EIO : -EUCLEAN,
			      "cannot open the catalogue", words);
	int result = identity_load(catalog, error);
	if (result < 0) {
		rocksdb_close(catalog->database);
		catalog->database = NULL;
	}
	return result;
}

static int database_open_or_renew(struct catalog *catalog, struct error *error)
{
	bool hopeless;
	int result = catalog_attempt_begin(catalog->path, &hopeless, error);

	if (result < 0)
		return result;
	result = hopeless ? -EUCLEAN : database_open(catalog, error);
	if (result == -EUCLEAN) {
		result = catalog_set_aside(catalog->path, error);
		if (result == 0)
			result = database_open(catalog, error);
	}
	if (result == 0)
		catalog_attempt_succeeded(catalog->path);
	return result;
}

static void rocksdb_catalog_close(void *opened)
{
	struct catalog *catalog = opened;

	if (catalog == NULL)
		return;
	if (catalog->database != NULL)
		rocksdb_close(catalog->database);
	rocksdb_readoptions_destroy(catalog->read_options);
	rocksdb_writeoptions_destroy(catalog->write_options);
	rocksdb_options_destroy(catalog->options);
	free(catalog);
}

static int rocksdb_catalog_open(void **out_catalog, const char *path, struct error *error)
{
	struct catalog *catalog = calloc(1, sizeof(*catalog) + strlen(path) + 1);

	if (catalog == NULL)
		return error_set(error, -ENOMEM, "no memory for the catalogue at %s", path);
	strcpy(catalog->path, path);
	catalog->options = options_create();
	catalog->write_options = rocksdb_writeoptions_create();
	rocksdb_writeoptions_set_sync(catalog->write_options, 0);
	catalog->read_options = rocksdb_readoptions_create();
	rocksdb_readoptions_set_fill_cache(catalog->read_options, 0);
	rocksdb_readoptions_set_readahead_size(catalog->read_options, READ_AHEAD);
	int result = database_open_or_renew(catalog, error);
	if (result < 0) {
		rocksdb_catalog_close(catalog);
		return result;
	}
	*out_catalog = catalog;
	return 0;
}

static void rocksdb_catalog_identify(void *opened, struct catalog_identity *out_identity)
{
	struct catalog *catalog = opened;

	*out_identity = catalog->identity;
}

static void batch_add(rocksdb_writebatch_t *batch, const struct catalog_message *message)
{
	const struct catalog_record *record = &message->record;
	uint8_t key[CATALOG_KEY_BYTES], value[CATALOG_VALUE_BYTES];

	if (message->verb == CATALOG_MARK) {
		rocksdb_writebatch_put(batch, COMPLETE_KEY, strlen(COMPLETE_KEY), "", 0);
		return;
	}
	catalog_key_pack(key, record->device, record->offset);
	if (message->verb == CATALOG_DELETE) {
		rocksdb_writebatch_delete(batch, (const char *)key, sizeof(key));
		return;
	}
	assert(message->verb == CATALOG_PUT);
	catalog_value_pack(value, key, record);
	rocksdb_writebatch_put(batch, (const char *)key, sizeof(key), (const char *)value,
			       sizeof(value));
}

static int rocksdb_catalog_write(void *opened, const struct catalog_message *messages,
				 unsigned count, struct error *error)
{
	struct catalog *catalog = opened;
	rocksdb_writebatch_t *batch = rocksdb_writebatch_create();
	char *words = NULL;

	for (unsigned n = 0; n < count; n++)
		batch_add(batch, &messages[n]);
	rocksdb_write(catalog->database, catalog->write_options, batch, &words);
	rocksdb_writebatch_destroy(batch);
	return words == NULL ? 0 : failed(error, -EIO, "cannot write to the catalogue", words);
}

static bool is_about_the_whole(const char *key, size_t bytes)
{
	return (bytes == strlen(ID_KEY) && memcmp(key, ID_KEY, bytes) == 0) ||
	       (bytes == strlen(COMPLETE_KEY) && memcmp(key, COMPLETE_KEY, bytes) == 0);
}

static int rocksdb_catalog_scan(void *opened, struct catalog_scan *scan, struct error *error)
{
	struct catalog *catalog = opened;
	struct catalog_record record;
	rocksdb_iterator_t *iterator = rocksdb_create_iterator(catalog->database,
							       catalog->read_options);
	char *words = NULL;
	bool goes_on = true;

	scan->skipped = 0;
	for (rocksdb_iter_seek_to_first(iterator); goes_on && rocksdb_iter_valid(iterator);
	     rocksdb_iter_next(iterator)) {
		size_t key_bytes, value_bytes;
		const char *key = rocksdb_iter_key(iterator, &key_bytes);
		const char *value = rocksdb_iter_value(iterator, &value_bytes);

		if (catalog_row_unpack(key, key_bytes, value, value_bytes, &record))
			goes_on = scan->row(scan->owner, &record);
		else if (!is_about_the_whole(key, key_bytes))
			scan->skipped++;
	}
	rocksdb_iter_get_error(iterator, &words);
	rocksdb_iter_destroy(iterator);
	if (words == NULL)
		return 0;
	/* It will not be better the next time: the next open sets this database aside. */
	catalog_attempt_is_hopeless(catalog->path);
	return failed(error, -EUCLEAN, "cannot read the catalogue", words);
}

static int rocksdb_catalog_clear(void *opened, struct error *error)
{
	struct catalog *catalog = opened;
	char *words = NULL;

	/* Anew rather than a tombstone over everything: it also gives the space back at once. */
	rocksdb_close(catalog->database);
	catalog->database = NULL;
	rocksdb_destroy_db(catalog->options, catalog->path, &words);
	if (words != NULL)
		return failed(error, -EIO, "cannot clear the catalogue", words);
	return database_open_or_renew(catalog, error);
}

const struct catalog_ops catalog_rocksdb_ops = {
	.name = "rocksdb",
	.open = rocksdb_catalog_open,
	.identify = rocksdb_catalog_identify,
	.write = rocksdb_catalog_write,
	.scan = rocksdb_catalog_scan,
	.clear = rocksdb_catalog_clear,
	.close = rocksdb_catalog_close,
};
