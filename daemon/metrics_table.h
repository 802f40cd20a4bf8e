/*
 * daemon/metrics_table.h: every metric, once: its name behind "kvtier_", kind, label names and
 * help. What is not here cannot be exposed; docs/METRICS.md is made from it.
 */
#ifndef KVTIER_DAEMON_METRICS_TABLE_H
#define KVTIER_DAEMON_METRICS_TABLE_H

/* row(name, kind, label names with ',' between them, help). Kinds: COUNTER, GAUGE, INFO (always
 * 1), HISTOGRAM (of microseconds, shown in seconds). Names of counters end in _total, of infos in
 * _info, of histograms in _seconds; units are base units. */
#define METRIC_TABLE(row) \
	row(build_info, INFO, "version,io,checksum,copy", "Always 1; what this daemon is and how it works.") \
	row(uptime_seconds, GAUGE, "", "Seconds since the daemon started.") \
	row(ready, GAUGE, "", "1 while the daemon serves.") \
	row(bypass, GAUGE, "mode", "1 for the bypass mode in force: off, on, observe.") \
	row(connections, GAUGE, "kind", "Client connections now: control, data.") \
	row(engines, GAUGE, "", "Engines whose ranks are all registered.") \
	row(leases, GAUGE, "", "Leases now.") \
	row(moves, GAUGE, "", "Blocks that are being stored, read up or written down now.") \
	row(pending_down, GAUGE, "", "Blocks that are being, or wait to be, written down to nvme.") \
	row(index_blocks, GAUGE, "", "Blocks in the index.") \
	row(index_bytes, GAUGE, "", "Memory of the index, taken at start.") \
	row(spaces, GAUGE, "tenant", "Spaces (model, layout and adapter together) known now.") \
	row(lookups_total, COUNTER, "result", "Lookups answered, by result: hit (something usable), miss.") \
	row(lookup_tokens_total, COUNTER, "", "Tokens that lookups asked for (first group).") \
	row(usable_tokens_total, COUNTER, "", "Tokens that lookups found usable.") \
	row(worth_tokens_total, COUNTER, "", "Tokens that lookups offered as worth loading.") \
	row(hit_tokens_total, COUNTER, "tier", "Tokens of delivered blocks, by the tier they were found in.") \
	row(blocks_loaded_total, COUNTER, "tier", "Blocks delivered, by the tier they were found in.") \
	row(loaded_bytes_total, COUNTER, "tier", "Payload bytes delivered, by the tier they were found in.") \
	row(blocks_missed_total, COUNTER, "", "Blocks that a load asked for and did not get.") \
	row(blocks_stored_total, COUNTER, "", "Blocks that became readable by a store.") \
	row(stored_bytes_total, COUNTER, "", "Payload bytes stored.") \
	row(pulled_blocks_total, COUNTER, "direction", "Blocks copied by a GPU out of lent memory (store) and into it (load).") \
	row(pulled_bytes_total, COUNTER, "direction", "Payload bytes of these.") \
	row(blocks_refused_total, COUNTER, "reason", "Blocks whose store was not wanted: present, parent, full, size, busy, bypass.") \
	row(store_failures_total, COUNTER, "", "Committed blocks that did not become readable.") \
	row(blocks_expired_total, COUNTER, "", "Blocks of stores and loads that their deadline ended.") \
	row(leases_refused_total, COUNTER, "", "Leases refused because half of the quota was held.") \
	row(forgets_total, COUNTER, "", "FORGETs that raised an epoch.") \
	row(spaces_given_back_total, COUNTER, "", "Spaces that nobody used any more, given back with their blocks for new ones.") \
	row(protocol_errors_total, COUNTER, "", "Clients closed for what they sent.") \
	row(log_suppressed_lines_total, COUNTER, "", "Lines left out as their event had too many.") \
	row(log_dropped_lines_total, COUNTER, "", "Lines lost as nobody read them in time.") \
	row(call_seconds, HISTOGRAM, "call", "Time that the loop worked on one frame.") \
	row(evictions_total, COUNTER, "tier", "Readable slots freed: evicted, dropped, quarantined.") \
	row(demotions_total, COUNTER, "result", "Writes of blocks to nvme: done, failed, unwanted (no place there), void (gone before).") \
	row(promotions_total, COUNTER, "result", "Reads of blocks up from nvme: done, failed.") \
	row(checksum_failures_total, COUNTER, "tier", "Slots whose checksum was wrong; each was a miss.") \
	row(integrity_checks_total, COUNTER, "tier,result", "Blocks read back just after their write: good, bad, failed, skipped.") \
	row(scrubbed_slots_total, COUNTER, "tier", "Slots checked in the background.") \
	row(scrubbed_bytes_total, COUNTER, "tier", "Bytes of slots checked in the background.") \
	row(scrub_damaged_total, COUNTER, "tier", "Slots that this, or a read-back, found wrong.") \
	row(scrub_given_up_total, COUNTER, "", "Slots that went while they were checked: nothing was said about them.") \
	row(scrub_rewritten_total, COUNTER, "", "Blocks found wrong on nvme that were written again from memory.") \
	row(scrub_passes_total, COUNTER, "", "Times that all slots have been checked.") \
	row(scrub_pass_seconds, GAUGE, "", "Seconds that the last full pass took; 0 before the first has ended.") \
	row(stale_entries_total, COUNTER, "", "Entries dropped because their slot held something else.") \
	row(cipher_failures_total, COUNTER, "", "Blocks read up from nvme whose tag was wrong; each was a miss.") \
	row(blocks_unreadable_total, COUNTER, "tenant,reason", "Blocks on nvme dropped unread: key_missing, in_clear.") \
	row(encryption, GAUGE, "tenant,mode,key", "1 for how a tenant's blocks are written to nvme, and by which key.") \
	row(restored_blocks_total, COUNTER, "tier", "Slots found again at start.") \
	row(slots, GAUGE, "tenant,tier,state", "Slots by state: free, filling, ready, leaving, bad.") \
	row(tier_bytes, GAUGE, "tenant,tier", "Bytes of the tier that the tenant may use.") \
	row(tier_used_bytes, GAUGE, "tenant,tier", "Bytes in slots that hold a block.") \
	row(nvme_ops_total, COUNTER, "device,op,result", "Operations on devices: done, failed.") \
	row(nvme_written_bytes_total, COUNTER, "device", "Bytes written to the device.") \
	row(nvme_read_bytes_total, COUNTER, "device", "Bytes read from the device.") \
	row(nvme_in_flight, GAUGE, "device", "Operations submitted and not done.") \
	row(nvme_fenced, GAUGE, "device", "1 while the device is out of use after failures.") \
	row(gpu_state, GAUGE, "gpu,state", "1 for the state of a GPU's process: opening, pinning, ready, waiting (for its next start).") \
	row(gpu_pinned_bytes, GAUGE, "gpu", "Bytes of the arenas that the GPU can copy from and to.") \
	row(gpu_lent_memories, GAUGE, "gpu", "Engines' memories that are lent now.") \
	row(gpu_restarts_total, COUNTER, "gpu", "Times that the GPU's process was started again.") \
	row(gpu_copies_total, COUNTER, "gpu,direction,result", "Copies of blocks: store (from the GPU), load (to it); done, failed.") \
	row(gpu_waiting_bytes, GAUGE, "gpu,direction", "Payload bytes of copies that wait or are under way.") \
	row(gpu_speed_bytes_per_second, GAUGE, "gpu,direction", "How fast copies are, as measured; at first assumed.") \
	row(gpu_latency_seconds, GAUGE, "gpu,direction", "What a copy takes before its bytes; at first assumed.") \
	row(gpu_copied_bytes_total, COUNTER, "gpu,direction", "Payload bytes copied: store, load.") \
	row(probe_late, GAUGE, "part", "1 while a canary did not come back from the part within stall_max.") \
	row(probe_seconds, GAUGE, "part", "Time of the last canary through the part, once it came back.") \
	row(probe_age_seconds, GAUGE, "part", "How long ago that was: canaries go every 10 s, and every second while somebody asks.") \
	row(probes_total, COUNTER, "part,result", "Canaries that came back: good or failed.") \
	row(peers, GAUGE, "state", "Other nodes: up; down: those that this one connects to and that are not up.") \
	row(peer_sessions_total, COUNTER, "", "Times that another node came up.") \
	row(peer_fetches, GAUGE, "", "Fetches of engines here that are under way or still asked about.") \
	row(peer_grants, GAUGE, "", "Promises to other nodes under way: their blocks are held.") \
	row(peer_fetches_total, COUNTER, "result", "Fetches ended: given (something), nothing, refused, unreachable, late, cancelled.") \
	row(peer_blocks_total, COUNTER, "direction", "Ranks' blocks that came from other nodes (in), proven, or went to them (out).") \
	row(peer_bytes_total, COUNTER, "direction", "Payload bytes of these.") \
	row(peer_blocks_lost_total, COUNTER, "reason", "Of those asked for: wrong (not what they should be), other.") \
	row(peer_tickets, GAUGE, "", "Tickets that are open.") \
	row(peer_tickets_total, COUNTER, "result", "Tickets issued to engines here, redeemed by other nodes, refused to them.") \
	row(worker_up, GAUGE, "worker", "1 while the worker process runs.") \
	row(worker_restarts_total, COUNTER, "worker", "Times the worker process ended.") \
	row(catalog_lag_records, GAUGE, "", "Catalogue records not yet written.") \
	row(inventory_changes_total, COUNTER, "", "Changes of what a route key is found in, for the inventory.") \
	row(inventory_epochs_total, COUNTER, "", "Times that the inventory began anew: at start, and when a change could not be told.") \
	row(inventory_pieces_total, COUNTER, "", "Pieces of snapshots read from the index for who asked.") \
	row(http_requests_total, COUNTER, "result", "Requests to this page's server: answered, refused, late, crowded out.")

#endif
