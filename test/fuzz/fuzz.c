/* Every fuzzer in one program, so that presence.c is compiled once for them all. FUZZER in the
 * environment names the one that runs. */

#include <unistd.h>

#define MBEDTLS_ALLOW_PRIVATE_ACCESS /* fuzz_tls.c */
#define _exit(status) abort() /* an input that ends the process is a finding, and to be kept */
#define main presence_main
#include "../../presence.c"
#undef main
#undef _exit

#include "../pure_extra.c"

#include "fuzz_frame.c"
#include "fuzz_gate.c"
#include "fuzz_head.c"
#include "fuzz_json.c"
#include "fuzz_response.c"
#include "fuzz_tls.c"
#include "fuzz_token.c"
#include "fuzz_uri.c"

#define FUZZERS(X) X(frame) X(gate) X(head) X(json) X(response) X(tls) X(token) X(uri)

static void (*fuzz_chosen)(const uint8_t *data, size_t len);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    const char *name = getenv("FUZZER");
    (void)argc;
    (void)argv;
#define X(known) if (name && !strcmp(name, #known)) fuzz_chosen = fuzz_##known;
    FUZZERS(X)
#undef X
    if (fuzz_chosen) return 0;
    fprintf(stderr, "FUZZER names none: say for example FUZZER=json\n");
    exit(2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    fuzz_chosen(data, len);
    return 0;
}
