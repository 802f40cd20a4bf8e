/*
 * daemon/metrics_table.h: every metric, once: its name behind "kvtier_", kind, label names and help. What is not here
 * cannot be exposed; docs/METRICS.md is made from it.
 */
#ifndef KVTIER_DAEMON_METRICS_TABLE_H
#define KVTIER_DAEMON_METRICS_TABLE_H

/* row(name, kind, label names with ',' between them, help). Kinds: COUNTER, GAUGE, HISTOGRAM (of microseconds, shown in
 * seconds). Names of counters end in _total, of histograms in _seconds; units are base units. */
#define METRIC_TABLE(row) \
	row(build_info, GAUGE, "version,io,checksum,copy", "Always 1; what this daemon is and how it works.") \
	row(start_time_seconds, GAUGE, "", "When the daemon started, in seconds since 1970.") \
	row(ready, GAUGE, "", "1 while the daemon serves.") \
	row(bypass, GAUGE, "mode", "1 for the bypass mode in force: off, on, observe.") \
	row(connections, GAUGE, "kind", "Client connections now: control, data.") \
	row(engines, GAUGE, "", "Engines whose ranks are all registered.") \
	row(spaces, GAUGE, "", "Spaces known now.") \
	row(leases, GAUGE, "", "Leases now.") \
	row(lease_blocks, GAUGE, "", "Blocks that leases keep readable.") \
	row(lookups_total, COUNTER, "result", "Lookups answered, by result: hit, partial, miss, bypass, error.") \
	row(lookup_tokens_total, COUNTER, "", "Tokens that lookups asked for.") \
	row(hit_tokens_total, COUNTER, "tier", "Tokens that lookups found usable, by the tier they lay in.") \
	row(worth_tokens_total, COUNTER, "", "Tokens that lookups offered as worth loading.") \
	row(blocks_stored_total, COUNTER, "", "Blocks that became readable by a store.") \
	row(blocks_refused_total, COUNTER, "reason", "Blocks whose store was refused: full, present, admission, late.") \
	row(blocks_loaded_total, COUNTER, "tier", "Blocks delivered and proven, by the tier they came from.") \
	row(blocks_missed_total, COUNTER, "reason", "Blocks that a load asked for and did not get: gone, stale, damaged, late.") \
	row(stored_bytes_total, COUNTER, "", "Payload bytes stored.") \
	row(loaded_bytes_total, COUNTER, "tier", "Payload bytes delivered, by tier.") \
	row(evictions_total, COUNTER, "tier", "Copies freed to make room.") \
	row(demotions_total, COUNTER, "result", "Writes of copies down to nvme: done, failed, refused.") \
	row(promotions_total, COUNTER, "result", "Reads of copies up from nvme: done, failed, stale, damaged.") \
	row(forgets_total, COUNTER, "", "FORGET, purge and tenant removal that raised an epoch.") \
	row(slots, GAUGE, "tenant,tier,state", "Slots by state: free, filling, ready, leaving, bad.") \
	row(tier_bytes, GAUGE, "tenant,tier", "Bytes of the tier that the tenant may use.") \
	row(tier_used_bytes, GAUGE, "tenant,tier", "Bytes in slots that hold a block.") \
	row(index_blocks, GAUGE, "", "Blocks in the index.") \
	row(index_blocks_limit, GAUGE, "", "Blocks that the index has room for.") \
	row(checksum_failures_total, COUNTER, "tier", "Payloads or headers whose checksum was wrong; each was a miss.") \
	row(stale_entries_total, COUNTER, "tier", "Entries dropped because their slot held something else.") \
	row(restored_blocks_total, COUNTER, "tier", "Blocks found again at start.") \
	row(restore_seconds, GAUGE, "", "How long the last start took until it served.") \
	row(call_seconds, HISTOGRAM, "call", "Time from a client's frame to its answer.") \
	row(load_seconds, HISTOGRAM, "tier", "Time from a load's arrival until its block was delivered.") \
	row(store_seconds, HISTOGRAM, "", "Time from a commit's arrival until its block was readable.") \
	row(loop_seconds, HISTOGRAM, "", "Duration of one pass of the loop.") \
	row(nvme_op_seconds, HISTOGRAM, "op", "Time of one operation on a device: read, write, extents.") \
	row(nvme_ops_total, COUNTER, "device,op,result", "Operations on devices: done, failed.") \
	row(nvme_written_bytes_total, COUNTER, "device", "Bytes written to the device.") \
	row(nvme_read_bytes_total, COUNTER, "device", "Bytes read from the device.") \
	row(nvme_in_flight, GAUGE, "device", "Operations submitted and not done.") \
	row(nvme_fenced, GAUGE, "device", "1 while the device is out of use after failures.") \
	row(nvme_write_budget_bytes, GAUGE, "", "Bytes that may still be written today; absent without a budget.") \
	row(worker_up, GAUGE, "worker", "1 while the worker process runs.") \
	row(worker_restarts_total, COUNTER, "worker", "Times the worker process was started again.") \
	row(catalog_lag_records, GAUGE, "", "Catalogue records not yet written.") \
	row(refused_total, COUNTER, "reason", "Connections and frames refused: full, version, malformed, oversize, slow.") \
	row(http_requests_total, COUNTER, "result", "Requests to this page's server: answered, refused, late.") \
	row(log_lines_total, COUNTER, "level", "Log lines written.") \
	row(log_dropped_total, COUNTER, "", "Log lines that did not fit into the queue.") \
	row(memory_reserved_bytes, GAUGE, "part", "Memory taken at start, by part.")

#endif
