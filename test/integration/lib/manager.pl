#!/usr/bin/perl
# What systemd is to a service: holds listening sockets and passes them (LISTEN_FDS), and hears what
# the service says (NOTIFY_SOCKET). Perl's base is on every Debian; Node can neither hold a socket
# that it does not accept from, nor read a Unix datagram.
#
#   manager.pl NOTIFY-SOCKET NAME=ADDRESS ...
#
# An ADDRESS is [udp:|unix:]HOST or PATH. It prints lines: `socket NAME PORT`, then what happens:
# `started PID`, `told TEXT`, `ended STATUS`. It reads lines of fields between tabs:
# `start FDNAMES WATCHDOG-USEC PROGRAM ARGUMENT ...`. It ends, and its service, with its stdin.
use strict;
use warnings;
use Socket;
use POSIX ();
use IO::Handle;

my ($path, @wanted) = @ARGV;
STDOUT->autoflush(1);
socket(my $notify, AF_UNIX, SOCK_DGRAM, 0) or die "socket: $!";
bind($notify, sockaddr_un($path)) or die "bind $path: $!";
my @held;
for (@wanted) {
    my ($name, $kind, $address) = /^([^=]*)=(?:(udp|unix|bound):)?(.*)$/ or die "what is $_?";
    $kind //= 'tcp';
    my $socket;
    if ($kind eq 'unix') {
        socket($socket, AF_UNIX, SOCK_STREAM, 0) or die "socket: $!";
        bind($socket, sockaddr_un($address)) or die "bind $address: $!";
    } else {
        socket($socket, AF_INET, $kind eq 'udp' ? SOCK_DGRAM : SOCK_STREAM, 0) or die "socket: $!";
        bind($socket, pack_sockaddr_in(0, inet_aton($address))) or die "bind $address: $!";
    }
    $kind =~ /tcp|unix/ and (listen($socket, 4096) or die "listen: $!");
    push @held, $socket;
    print 'socket ', $name, ' ', $kind eq 'unix' ? 0 : (unpack_sockaddr_in(getsockname $socket))[0], "\n";
}

my ($child, $input, $told) = (0, '', '');
$SIG{CHLD} = sub { };    # so that select ends

sub start {
    my ($names, $usec, @command) = @_;
    $child = fork // die "fork: $!";
    if ($child) { print "started $child\n"; return }
    @ENV{qw(NOTIFY_SOCKET LISTEN_PID LISTEN_FDS LISTEN_FDNAMES)} = ($path, $$, scalar @held, $names);
    @ENV{qw(WATCHDOG_USEC WATCHDOG_PID)} = ($usec, $$) if $usec;
    my @high = map { POSIX::fcntl($_, POSIX::F_DUPFD, 200) // die "dup: $!" } @held;
    POSIX::dup2($high[$_], 3 + $_) // die "dup2: $!" for 0 .. $#high;
    POSIX::close($_) for @high;
    no warnings 'exec';
    exec { $command[0] } @command;
    POSIX::_exit(127);
}

for (;;) {
    my $ready = '';
    vec($ready, fileno $_, 1) = 1 for *STDIN, $notify;
    my $count = select($ready, undef, undef, $child ? 0.2 : undef);
    if ($count > 0 && vec($ready, fileno $notify, 1)) {
        recv($notify, $told, 4096, 0) // next;
        $told =~ s/\n/|/g;
        print "told $told\n";
    }
    if ($child && waitpid($child, POSIX::WNOHANG()) > 0) {
        syswrite STDERR, "\0"; # behind its last words
        print 'ended ', $? & 127 ? 'signal ' . ($? & 127) : $? >> 8, "\n";
        $child = 0;
    }
    next unless $count > 0 && vec($ready, fileno STDIN, 1);
    my $n = sysread(STDIN, $input, 65536, length $input);
    last unless $n;
    while ($input =~ s/^(.*?)\n//) {
        my ($word, @rest) = split /\t/, $1, -1;
        $word eq 'start' ? start(@rest) : die "what is $word?";
    }
}
kill 'KILL', $child if $child;
waitpid $child, 0 if $child;
unlink $path;
