// When does RulkaLink.as, with the stubs, listen? Returns the number of the wrong step, or 0.

int Check()
{
    portVariable = 8477;  // saved by an earlier launch
    Render();
    if (portsListenedOn.Length != 0)
        return 5;
    portVariable = 8478;
    OnListenCommand(0, 0, "rulka_listen", array<string>());
    @client = Net::Socket();
    Render();
    if (portsListenedOn.Length != 1 || portsListenedOn[0] != 8478)
        return 1;
    portVariable = 8479;
    Render();
    Render();
    if (portsListenedOn.Length != 2 || portsListenedOn[1] != 8479)
        return 2;
    if (client is null)
        return 3;
    portVariable = 0;
    Render();
    return portsListenedOn.Length == 2 ? CheckTakenPort() : 4;
}

int CheckTakenPort()
{
    takenPort = 8480;
    portVariable = 8480;
    listenAttempts = linesLogged = 0;
    for (Time::Now = 10000; Time::Now < 13000; Time::Now += 20)
        Render();
    if (listenAttempts != 3 || linesLogged != 1 || listeningPort != 0 || listener !is null)
        return 6;
    takenPort = 0;
    Render();
    Render();
    if (listenAttempts != 4 || portsListenedOn.Length != 3 || listeningPort != 8480)
        return 7;
    return listener is null ? 8 : 0;
}
