// Compiles AngelScript files as one module: compile_angelscript FILE...
// Prints what the compiler says; exits with 1 unless all compile without an error. If one has a
// function `int Check()`, it is run, and a result other than 0 is an error.
// Strings and arrays are those of the add-ons, with the names that TMInterface gives them.

// Debian builds the library with this switch.
#define AS_USE_NAMESPACE
#include <angelscript.h>
#include <angelscript/scriptarray.h>
#include <angelscript/scriptstdstring.h>

#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>

using namespace AngelScript;

static void Report(const asSMessageInfo* message, void*)
{
    std::printf("%s:%d:%d: %s\n", message->section, message->row, message->col, message->message);
}

static asUINT LengthOf(const std::string& text)
{
    return static_cast<asUINT>(text.size());
}

static int ResultOf(asIScriptEngine* engine, asIScriptFunction* check)
{
    asIScriptContext* context = engine->CreateContext();
    context->Prepare(check);
    const bool ended = context->Execute() == asEXECUTION_FINISHED;
    const int result = ended ? static_cast<int>(context->GetReturnDWord()) : -1;
    context->Release();
    return result;
}

int main(int count, char** names)
{
    asIScriptEngine* engine = asCreateScriptEngine();
    engine->SetMessageCallback(asFUNCTION(Report), nullptr, asCALL_CDECL);
    RegisterScriptArray(engine, true);
    RegisterStdString(engine);
    int failed = engine->RegisterObjectMethod(
        "array<T>", "uint get_Length() const property", asMETHOD(CScriptArray, GetSize),
        asCALL_THISCALL);
    failed |= engine->RegisterObjectMethod(
        "string", "uint get_Length() const property", asFUNCTION(LengthOf), asCALL_CDECL_OBJLAST);
    asIScriptModule* module = engine->GetModule("plugin", asGM_ALWAYS_CREATE);
    for (int place = 1; place < count; place++) {
        std::ifstream file(names[place]);
        std::stringstream text;
        text << file.rdbuf();
        module->AddScriptSection(names[place], text.str().c_str());
    }
    failed |= module->Build();
    asIScriptFunction* check = failed < 0 ? nullptr : module->GetFunctionByDecl("int Check()");
    if (check != nullptr) {
        const int result = ResultOf(engine, check);
        if (result != 0) {
            std::printf("Check() returned %d\n", result);
            failed = -1;
        }
    }
    engine->ShutDownAndRelease();
    return failed < 0 ? 1 : 0;
}
