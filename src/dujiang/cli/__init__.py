"""The command line: `dujiang COMMAND`; one module for each command.

main      run(): the entry; every error becomes one message, one exit code
exits     the exit codes and which error has which
command   what all commands share: strict flags, the options of the settings
output    tables, JSON and error messages, for a terminal or for a pipe
load      `module:attribute` to an App
desk      dead letters and audits, in the store itself or through the process that owns it
serve     one process that works, all roles or some; supervise: several, or one that starts again when a file changes
"""
