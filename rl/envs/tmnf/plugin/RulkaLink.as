// RulkaLink: lets a program on this machine drive TrackMania Nations Forever.
//
// For TMInterface 2.1. The plugin listens on the port of the variable custom_port, on another one
// when the variable changes; a client that is connected then stays. Messages are an int32 id and a
// payload, little-endian; rl/envs/tmnf/messages.py lists them. Ids 1 to 5 are sent from here, and the
// game waits until the client sends the same id back. Whatever else the client sends is executed at
// once while the game waits.
//
// A client that does not answer for the response timeout is dropped, also one that has not set this
// time for ten minutes of one wait, and a new client takes the place of the old one at any time: the
// game is never left standing for a client that is gone.

const int RUN_STEP = 1;
const int CHECKPOINT_COUNT = 2;
const int LAP_COUNT = 3;
const int FRAME = 4;
const int CONNECTED = 5;
const int SET_SPEED = 6;
const int REWIND = 7;
const int REWIND_TO_CURRENT = 8;
const int GET_STATE = 9;
const int SET_KEYS = 10;
const int GIVE_UP = 11;
const int PREVENT_FINISH = 12;
const int SHUT_DOWN = 13;
const int COMMAND = 14;
const int RESPONSE_TIMEOUT = 15;
const int IS_FINISHED = 16;
const int REQUEST_FRAME = 17;
const int RESET_CAMERA = 18;
const int STEP_PERIOD = 19;
const int CANCEL_FRAME = 20;
const int SHOW_INTERFACE = 21;
const int IS_IN_MENUS = 22;
const int GET_INPUTS = 23;

const string HOST = "127.0.0.1";
const string PORT_VARIABLE = "custom_port";
const uint DEFAULT_TIMEOUT_MS = 2000;
// A closed socket is not seen while the game waits, so no client may ask for a wait without end:
// during a wait it has to set the timeout anew within this time.
const uint LONGEST_SILENCE_MS = 600000;
const int DEFAULT_PERIOD_MS = 10;
// Between two attempts to listen on a port that another program holds.
const uint LISTEN_AGAIN_MS = 1000;
// After this long a wait the processor is left to others for a millisecond at a time.
const uint BUSY_WAIT_MS = 50;

Net::Socket@ listener = null;
int listeningPort = 0;
// The port that could not be listened on, and when to try again.
int refusedPort = 0;
uint64 listenAgainAt = 0;
// Whether rulka_listen has run: before it, custom_port may be another game's port.
bool launchIsOver = false;
Net::Socket@ client = null;
bool greetingDue = false;
bool focusDue = false;
uint timeoutMs = DEFAULT_TIMEOUT_MS;
uint64 timeoutSetAt = 0;
int periodMs = DEFAULT_PERIOD_MS;
int frameWidth = -1;
int frameHeight = -1;
uint framesSent = 0;
uint clientsLost = 0;

PluginInfo@ GetPluginInfo()
{
    PluginInfo info;
    info.Name = "RulkaLink";
    info.Author = "rulka";
    info.Version = "1.0.0";
    info.Description = "Lets a program on this machine drive the game";
    return info;
}

void Main()
{
    RegisterVariable(PORT_VARIABLE, 0);
    RegisterCustomCommand("rulka_listen", "Listens on the port of custom_port", OnListenCommand);
    RegisterCustomCommand("rulka_focus", "Gives the game's window the focus", OnFocusCommand);
    RegisterCustomCommand("rulka_status", "Shows the state of the link", OnStatusCommand);
    // The variable is saved: before the commands of this launch it has the port of an earlier one.
    // Queue behind them; should they come later, Render listens again.
    CommandList afterLaunch;
    afterLaunch.Content = "rulka_listen";
    afterLaunch.Process();
}

void OnDisabled()
{
    DropClient("the plugin was disabled");
    @listener = null;
    listeningPort = 0;
}

// -- console --------------------------------------------------------------------------------------

void OnListenCommand(int fromTime, int toTime, const string&in line, const array<string>&in args)
{
    launchIsOver = true;
    refusedPort = 0;
    const int port = WantedPort();
    if (port == 0)
        log("RulkaLink: set custom_port to a port from 1 to 65535");
    else
        Listen(port);
}

void OnFocusCommand(int fromTime, int toTime, const string&in line, const array<string>&in args)
{
    focusDue = true;
}

void OnStatusCommand(int fromTime, int toTime, const string&in line, const array<string>&in args)
{
    const string state = client is null ? "no client" : "a client";
    print(
        "RulkaLink: " + state + ", period " + periodMs + " ms, timeout " + timeoutMs + " ms, "
        + framesSent + " frames sent, " + clientsLost + " clients lost"
    );
}

// -- callbacks of the game ------------------------------------------------------------------------

void Render()
{
    const int port = WantedPort();
    const bool isDue = port != refusedPort || Time::Now >= listenAgainAt;
    if (launchIsOver && port != 0 && port != listeningPort && isDue)
        Listen(port);
    AcceptClient(0);
    if (focusDue) {
        focusDue = false;
        Graphics::ShowGameWindow();
        Graphics::FocusGameWindow();
    }
    if (greetingDue && GetCurrentGameState() != TM::GameState::StartUp)
        Greet();
    if (client !is null && !greetingDue && frameHeight >= 0)
        SendFrame();
}

void OnGameStateChanged(TM::GameState state)
{
    if (greetingDue && state == TM::GameState::Menus)
        Greet();
}

void OnRunStep(SimulationManager@ simulation)
{
    if (client is null || greetingDue)
        return;
    const int raceTime = simulation.RaceTime;
    if (raceTime % periodMs == 0 || simulation.TickTime > raceTime) {
        if (Send(RUN_STEP) && Send(raceTime))
            Wait(RUN_STEP);
    }
}

void OnCheckpointCountChanged(SimulationManager@ simulation, int current, int target)
{
    if (client is null || greetingDue)
        return;
    if (Send(CHECKPOINT_COUNT) && Send(current) && Send(target))
        Wait(CHECKPOINT_COUNT);
}

void OnLapCountChanged(SimulationManager@ simulation, int current, int target)
{
    if (client is null || greetingDue)
        return;
    if (Send(LAP_COUNT) && Send(current) && Send(target))
        Wait(LAP_COUNT);
}

// -- client ---------------------------------------------------------------------------------------

// Returns the port of custom_port, or 0 if that is none.
int WantedPort()
{
    const int port = int(GetVariableDouble(PORT_VARIABLE));
    return port > 0 && port <= 65535 ? port : 0;
}

// Listens on a port for the next client; the present one stays. Render tries again after a failure.
void Listen(int port)
{
    // The old listener may hold this port. Nothing listens on another one meanwhile.
    @listener = null;
    listeningPort = 0;
    Net::Socket@ next = Net::Socket();
    if (!next.Listen(HOST, uint16(port))) {
        if (port != refusedPort)
            log("RulkaLink: cannot listen on port " + port + ", is it taken? Trying again");
        refusedPort = port;
        listenAgainAt = Time::Now + LISTEN_AGAIN_MS;
        return;
    }
    @listener = next;
    listeningPort = port;
    refusedPort = 0;
    log("RulkaLink: listening on port " + port);
}

// Takes a new client, in place of the old one. Returns whether there is a new one.
bool AcceptClient(int waitMs)
{
    if (listener is null)
        return false;
    Net::Socket@ next = listener.Accept(waitMs);
    if (next is null)
        return false;
    DropClient("another client has come");
    @client = next;
    client.NoDelay = true;
    greetingDue = true;
    return true;
}

void DropClient(const string&in reason)
{
    if (client is null)
        return;
    @client = null;
    greetingDue = false;
    timeoutMs = DEFAULT_TIMEOUT_MS;
    frameWidth = frameHeight = -1;
    clientsLost++;
    GetSimulationManager().SetSpeed(1.0f);
    log("RulkaLink: client dropped, " + reason);
}

void Greet()
{
    greetingDue = false;
    if (Send(CONNECTED))
        Wait(CONNECTED);
}

void SendFrame()
{
    const vec2 size(frameWidth, frameHeight);
    frameWidth = frameHeight = -1;
    framesSent++;
    if (Send(FRAME) && Send(Graphics::CaptureScreenshot(size)))
        Wait(FRAME);
}

bool Send(int value)
{
    if (client is null)
        return false;
    if (client.Write(value))
        return true;
    DropClient("it takes no messages");
    return false;
}

bool Send(const array<uint8>&in bytes)
{
    if (client is null)
        return false;
    if (client.Write(bytes))
        return true;
    DropClient("it takes no messages");
    return false;
}

// Executes what the client sends until it acknowledges, is dropped, or another one comes.
void Wait(int awaited)
{
    const uint64 began = Time::Now;
    timeoutSetAt = began;
    while (client !is null) {
        if (client.Available > 0) {
            const int id = client.ReadInt32();
            if (id == awaited)
                return;
            if (id == SHUT_DOWN) {
                DropClient("it has left");
                return;
            }
            Execute(id);
            continue;
        }
        const uint64 now = Time::Now;
        const uint64 waited = now - began;
        if (AcceptClient(waited > BUSY_WAIT_MS ? 1 : 0))
            return;
        if (waited > timeoutMs || now - timeoutSetAt > LONGEST_SILENCE_MS) {
            DropClient("no answer for " + uint(waited) + " ms");
            return;
        }
    }
}

void Execute(int id)
{
    SimulationManager@ simulation = GetSimulationManager();
    switch (id) {
        case SET_SPEED:
            simulation.SetSpeed(client.ReadFloat());
            break;
        case REWIND:
            Rewind(simulation);
            break;
        case REWIND_TO_CURRENT:
            if (simulation.InRace)
                simulation.RewindToState(simulation.SaveState());
            break;
        case GET_STATE:
            SendState(simulation);
            break;
        case SET_KEYS:
            SetKeys(simulation);
            break;
        case GIVE_UP:
            if (simulation.InRace)
                simulation.GiveUp();
            break;
        case PREVENT_FINISH:
            if (simulation.InRace)
                simulation.PreventSimulationFinish();
            break;
        case COMMAND:
            ExecuteCommand(client.ReadString(client.ReadInt32()));
            break;
        case RESPONSE_TIMEOUT:
            timeoutMs = client.ReadUint32();
            timeoutSetAt = Time::Now;
            break;
        case IS_FINISHED:
            Send(IsFinished(simulation) ? 1 : 0);
            break;
        case REQUEST_FRAME:
            frameWidth = client.ReadInt32();
            frameHeight = client.ReadInt32();
            break;
        case RESET_CAMERA:
            simulation.ResetCamera();
            break;
        case STEP_PERIOD:
            SetPeriod(client.ReadInt32());
            break;
        case CANCEL_FRAME:
            frameWidth = frameHeight = -1;
            break;
        case SHOW_INTERFACE:
            ToggleRaceInterface(client.ReadInt32() > 0);
            break;
        case IS_IN_MENUS:
            Send(GetCurrentGameState() == TM::GameState::Menus ? 1 : 0);
            break;
        case GET_INPUTS:
            SendInputs(simulation);
            break;
        default:
            // Its payload has an unknown length, so what follows cannot be read either.
            if (id < RUN_STEP || id > CONNECTED)
                DropClient("unknown message " + id);
    }
}

void SetPeriod(int wantedMs)
{
    periodMs = wantedMs > 0 ? wantedMs : DEFAULT_PERIOD_MS;
}

void Rewind(SimulationManager@ simulation)
{
    const array<uint8> bytes = client.ReadBytes(client.ReadInt32());
    if (simulation.InRace)
        simulation.RewindToState(SimulationState(bytes));
}

void SendState(SimulationManager@ simulation)
{
    array<uint8> bytes;
    if (simulation.InRace)
        bytes = simulation.SaveState().ToArray();
    if (Send(int(bytes.Length)) && bytes.Length > 0)
        Send(bytes);
}

void SetKeys(SimulationManager@ simulation)
{
    const int left = client.ReadUint8();
    const int right = client.ReadUint8();
    const int accelerate = client.ReadUint8();
    const int brake = client.ReadUint8();
    if (!simulation.InRace)
        return;
    simulation.SetInputState(InputType::Left, left);
    simulation.SetInputState(InputType::Right, right);
    simulation.SetInputState(InputType::Up, accelerate);
    simulation.SetInputState(InputType::Down, brake);
}

bool IsFinished(SimulationManager@ simulation)
{
    if (!simulation.InRace)
        return false;
    return simulation.PlayerInfo.RaceFinished || simulation.TickTime > simulation.RaceTime;
}

void SendInputs(SimulationManager@ simulation)
{
    string text;
    if (simulation.InRace)
        text = simulation.InputEvents.ToCommandsText();
    if (Send(int(text.Length)) && text.Length > 0) {
        if (!client.Write(text))
            DropClient("it takes no messages");
    }
}
