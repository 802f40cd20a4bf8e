"""The connector for vLLM: --kv-transfer-config '{"kv_connector": "KvtierConnector",
"kv_connector_module_path": "kvtier.vllm", "kv_role": "kv_both"}'."""
from kvtier.vllm.connector import KvtierConnector

__all__ = ['KvtierConnector']
