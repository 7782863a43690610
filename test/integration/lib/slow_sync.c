/* Runs a program in which fdatasync(2) takes long: slow_sync FILE MS PROGRAM [ARGUMENT ...]. It does
 * while FILE exists. The kernel tells a helper of each call, and the call waits for its answer, as it
 * would for a slow disk; nothing is preloaded, so a static program has it, too. */
#define _GNU_SOURCE
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Answers until the program ends. Its sandbox keeps the signal from us that a parent's death can
 * send (PR_SET_PDEATHSIG), so its end is waited for beside its calls. */
static void help(int calls, int served, const char *file, int ms)
{
    for (int fd = 0; fd < 3; fd++) close(fd); /* whoever reads the program's output sees its end */
    for (;;) {
        struct pollfd either[] = {{.fd = served, .events = POLLIN},
                                  {.fd = calls, .events = POLLIN}};
        if (poll(either, 2, -1) > 0 && either[0].revents) return;
        if (!either[1].revents) continue;
        struct seccomp_notif call = {0};
        if (ioctl(calls, SECCOMP_IOCTL_NOTIF_RECV, &call)) continue;
        if (!access(file, F_OK) && poll(either, 1, ms)) return;
        struct seccomp_notif_resp answer = {.id = call.id,
                                            .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
        ioctl(calls, SECCOMP_IOCTL_NOTIF_SEND, &answer);
    }
}

int main(int argc, char **argv)
{
    if (argc < 4) return 2;
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fdatasync, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return 77;
    int calls = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER,
                             &program);
    if (calls < 0) {
        perror("seccomp");
        return 77;
    }
    int self = (int)syscall(SYS_pidfd_open, getpid(), 0);
    pid_t helper = self < 0 ? -1 : fork();
    if (helper < 0) return 77;
    if (!helper) {
        help(calls, self, argv[1], atoi(argv[2]));
        return 0;
    }
    close(calls);
    close(self);
    execvp(argv[3], argv + 3);
    perror(argv[3]);
    return 2;
}
