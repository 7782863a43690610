/* Every fuzzer in one program, so that presence.c is compiled once for them all. FUZZER in the
 * environment names the one that runs. */

#include <dirent.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

/* The fuzzer of the whole server moves its clocks, and sees it end itself. */
int fuzz_clock_gettime(clockid_t clock, struct timespec *t);
__attribute__((noreturn)) void fuzz_exit(int status);

#define MBEDTLS_ALLOW_PRIVATE_ACCESS /* fuzz_tls.c */
#define mbedtls_pk_sign fuzz_pk_sign /* fuzz_acme.c */
#define clock_gettime(clock, t) fuzz_clock_gettime(clock, t)
#define _exit(status) fuzz_exit(status)
#define main presence_main
#include "../../presence.c"
#undef main
#undef mbedtls_pk_sign
#undef clock_gettime
#undef _exit

/* The address sanitizer's; its header is not everywhere. */
size_t __sanitizer_get_current_allocated_bytes(void);

static bool fuzz_scenarios; /* inputs are lines, see fuzz_server.c */

#include "../unit/pure.h"

#include "fuzz_acme.c"
#include "fuzz_cluster.c"
#include "fuzz_frame.c"
#include "fuzz_head.c"
#include "fuzz_hosts.c"
#include "fuzz_json.c"
#include "fuzz_response.c"
#include "fuzz_server.c"
#include "fuzz_tls.c"
#include "fuzz_token.c"
#include "fuzz_uri.c"

#define FUZZERS(X)                                                                                 \
    X(acme)                                                                                        \
    X(cluster) X(frame) X(head) X(hosts) X(json) X(response) X(server) X(tls) X(token) X(uri)

static void (*fuzz_chosen)(const uint8_t *data, size_t len);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    const char *name = getenv("FUZZER");
    (void)argc;
    (void)argv;
#define X(known)                                                                                   \
    if (name && !strcmp(name, #known)) fuzz_chosen = fuzz_##known;
    FUZZERS(X)
#undef X
    fuzz_scenarios = fuzz_chosen == fuzz_server;
    if (fuzz_chosen) return 0;
    fprintf(stderr, "FUZZER names none: say for example FUZZER=json\n");
    exit(2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    fuzz_chosen(data, len);
    return 0;
}
