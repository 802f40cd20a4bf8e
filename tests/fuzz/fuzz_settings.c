/* tests/fuzz/fuzz_settings.c: any text as a settings file: refused with words, or read, printed and
 * read back the same. */
#include "daemon/settings.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

static void forget_origins(struct settings *settings)
{
	memset(settings->origins, 0, sizeof(settings->origins));
	for (unsigned i = 0; i < SETTINGS_TENANTS_MAX; i++)
		memset(settings->tenants[i].origins, 0, sizeof(settings->tenants[i].origins));
	for (unsigned i = 0; i < SETTINGS_DEVICES_MAX; i++)
		memset(settings->devices[i].origins, 0, sizeof(settings->devices[i].origins));
}

/* Items past the count keep what an earlier list left there. */
static void forget_unused(struct settings *settings)
{
	for (unsigned i = settings->tenants_count; i < SETTINGS_TENANTS_MAX; i++)
		memset(&settings->tenants[i], 0, sizeof(settings->tenants[i]));
	for (unsigned i = settings->devices_count; i < SETTINGS_DEVICES_MAX; i++)
		memset(&settings->devices[i], 0, sizeof(settings->devices[i]));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
	static struct settings settings, again;
	struct error error = { 0 };
	char *printed;
	size_t printed_bytes;
	FILE *file;
	int result;

	settings_default(&settings);
	if (settings_read_text(&settings, (const char *)bytes, count, "fuzz", &error) < 0) {
		assert(error.code < 0 && error.text[0] != '\0');
		return 0;
	}
	file = open_memstream(&printed, &printed_bytes);
	if (file == NULL)
		return 0;
	settings_print(&settings, file);
	fclose(file);
	settings_default(&again);
	result = settings_read_text(&again, printed, printed_bytes, "printed", &error);
	assert(result == 0);
	forget_origins(&settings);
	forget_origins(&again);
	forget_unused(&settings);
	forget_unused(&again);
	assert(memcmp(&settings, &again, sizeof(settings)) == 0);
	free(printed);
	/* Raw devices are looked at; a fuzzer's paths must not be. */
	settings.devices_count = 0;
	if (settings_finish(&settings, &error) < 0)
		assert(error.code < 0 && error.text[0] != '\0');
	return 0;
}
