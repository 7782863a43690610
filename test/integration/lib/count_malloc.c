/* Preloaded into a program under the address sanitizer: counts what is allocated, in all threads, in
 * the first eight bytes of the file that COUNT_MALLOC names. */
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int __sanitizer_install_malloc_and_free_hooks(void (*)(const volatile void *, size_t),
                                              void (*)(const volatile void *));

static unsigned long long *count;

static void allocated(const volatile void *at, size_t size)
{
    (void)at, (void)size;
    __atomic_fetch_add(count, 1, __ATOMIC_RELAXED);
}

static void freed(const volatile void *at)
{
    (void)at;
}

__attribute__((constructor)) static void begin(void)
{
    const char *name = getenv("COUNT_MALLOC");
    int file = name ? open(name, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0 || ftruncate(file, sizeof *count)) abort();
    count = mmap(NULL, sizeof *count, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (count == MAP_FAILED || !__sanitizer_install_malloc_and_free_hooks(allocated, freed)) abort();
}
