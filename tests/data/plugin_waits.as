// How long does RulkaLink.as, with the stubs, wait for a client? Returns the number of the wrong
// step, or 0.

int Check()
{
    pollMs = 1000;
    // A client that sets its timeout anew each second for 1000 s, 5 s ahead, and then dies.
    const uint living = WaitedMs(1000, 5000);
    if (living < 1005000 || living > 1007000)
        return 1;
    // One that asks once for a wait without end.
    const uint silent = WaitedMs(1, 4000000000);
    return silent < 601000 || silent > 603000 ? 2 : 0;
}

uint WaitedMs(int renewals, uint ahead)
{
    Time::Now = 0;
    renewalsLeft = renewals;
    aheadMs = ahead;
    @client = Net::Socket();
    Wait(RUN_STEP);
    return client is null ? uint(Time::Now) : 0;
}
