# Cross-compiles for 64-bit ARM Linux with Debian's g++-aarch64-linux-gnu; CONTRIBUTING.md shows how.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_FIND_ROOT_PATH /usr/aarch64-linux-gnu)

# The Python that runs the build is the host's, and so is the suffix of modules that it names.
if(DEFINED SKBUILD_SOABI)
  string(REPLACE x86_64 aarch64 soabi "${SKBUILD_SOABI}")
  set(PYTHON_MODULE_EXTENSION ".${soabi}.so")
endif()
