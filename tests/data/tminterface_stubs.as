// What RulkaLink.as uses of TMInterface, declared so that a compiler of AngelScript can check the
// plugin (compile_angelscript.cpp, which adds strings and arrays). Ports and time have effects.

double portVariable = 0;
array<uint16> portsListenedOn;
uint16 takenPort = 0;
uint listenAttempts = 0;
uint linesLogged = 0;
// What a client sends, one message in each of so many milliseconds: its timeout, so far ahead.
uint pollMs = 0;
int renewalsLeft = 0;
uint aheadMs = 0;

class vec2 { vec2(float x, float y) {} }

class PluginInfo { string Name; string Author; string Version; string Description; }

class SimulationState
{
    SimulationState() {}
    SimulationState(const array<uint8>&in bytes) {}
    array<uint8>@ ToArray() { return array<uint8>(); }
}

class Player { bool RaceFinished; }

class InputEvents { string ToCommandsText() { return ""; } }

enum InputType { Left, Right, Up, Down }

class SimulationManager
{
    bool InRace;
    int RaceTime;
    int TickTime;
    Player PlayerInfo;
    InputEvents InputEvents;
    void SetSpeed(float speed) {}
    void RewindToState(SimulationState@ state, bool resetCamera = true) {}
    SimulationState@ SaveState() { return SimulationState(); }
    void GiveUp() {}
    void PreventSimulationFinish() {}
    void ResetCamera() {}
    void SetInputState(InputType key, int value) {}
}

class CommandList { string Content; void Process() {} }

funcdef void CommandHandler(int, int, const string&in, const array<string>&in);

namespace TM { enum GameState { StartUp = 16, Menus = 32, LocalRace = 512 } }

namespace Time { uint64 Now = 0; }

namespace Graphics
{
    array<uint8>@ CaptureScreenshot(const vec2&in size) { return array<uint8>(); }
    void ShowGameWindow() {}
    void FocusGameWindow() {}
}

namespace Net
{
    class Socket
    {
        bool NoDelay;
        uint get_Available() property
        {
            Time::Now += pollMs;
            return renewalsLeft > 0 ? 8 : 0;
        }
        bool Listen(const string&in host, uint16 port)
        {
            listenAttempts++;
            if (port != takenPort)
                portsListenedOn.insertLast(port);
            return port != takenPort;
        }
        Socket@ Accept(int waitMs) { return null; }
        int ReadInt32()
        {
            renewalsLeft--;
            return 15;
        }
        uint ReadUint32() { return uint(Time::Now) + aheadMs; }
        uint8 ReadUint8() { return 0; }
        float ReadFloat() { return 0; }
        array<uint8>@ ReadBytes(int count) { return array<uint8>(); }
        string ReadString(int count) { return ""; }
        bool Write(int value) { return true; }
        bool Write(const array<uint8>&in bytes) { return true; }
        bool Write(const string&in text) { return true; }
    }
}

SimulationManager simulationOfTheStubs;
SimulationManager@ GetSimulationManager() { return simulationOfTheStubs; }
TM::GameState GetCurrentGameState() { return TM::GameState::Menus; }
void RegisterVariable(const string&in name, double value) {}
double GetVariableDouble(const string&in name) { return portVariable; }
void RegisterCustomCommand(const string&in name, const string&in text, CommandHandler@ handler) {}
void ExecuteCommand(const string&in command) {}
void ToggleRaceInterface(bool shown) {}
void log(const string&in text) { linesLogged++; }
void print(const string&in text) {}
