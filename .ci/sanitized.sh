# For .ci/sanitizers and .ci/cuda: instrumented builds of the package, and tests on them. To be sourced, from the
# root of the source tree. Takes a Python that has the test dependencies: PYTHON, or the environment that .ci/run
# makes.

python="${PYTHON:-.venv-test/bin/python}"
if ! "$python" -c 'import pytest, numpy, cv2' 2>/dev/null; then
  echo "$0: $python lacks the test dependencies. Run .ci/run once, or name another one in PYTHON." >&2
  exit 2
fi

# The environment's packages, but not its installed edgevae: the interpreter below the environment, and the
# packages as a plain path.
base="$("$python" -c 'import sys; print(sys._base_executable)')"
packages="$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')"
here="$PWD"

# build NAME FLAGS [OPTIONS...]: the package with an instrumented module in build/NAME, by options of CMake.
build() {
  local name="$1" flags="$2" define=()
  shift 2
  for option in "$@"; do define+=(--config-settings "cmake.define.$option"); done
  rm -rf "build/$name"
  "$python" -m pip install -q --no-deps --target "build/$name" \
    --config-settings cmake.build-type=Debug --config-settings install.strip=false \
    --config-settings build-dir="build/$name-objects" \
    --config-settings cmake.define.CMAKE_CXX_FLAGS="$flags -fno-omit-frame-pointer" \
    --config-settings cmake.define.CMAKE_CXX_FLAGS_DEBUG="-O1 -g" "${define[@]}" .
}

# check NAME RUNTIME TESTS...: the tests on build/NAME, below the sanitizer's runtime library. It has to come
# first in the process, with the C++ library whose exceptions it intercepts. A report ends the process; pytest
# leaves stderr and the signals alone, so that it is seen and names the fault itself.
check() {
  local name="$1" preload fixed=(setarch -R)
  preload="$(c++ -print-file-name="$2") $(c++ -print-file-name=libstdc++.so)"
  shift 2
  # Without a random address layout, which GCC 12's thread sanitizer cannot map on newer kernels.
  "${fixed[@]}" true 2>/dev/null || fixed=()
  echo "$name: $*"
  # Not from the folder above, whose edgevae/ may have a module of its own.
  (cd tests && env PYTHONPATH="$here/build/$name:$packages" PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1 \
    OPENBLAS_NUM_THREADS=1 LD_PRELOAD="$preload" "${fixed[@]}" "$base" -c '
import sys, edgevae, pytest
module, wanted = edgevae._core.__file__, sys.argv[1]
assert module.startswith(wanted), f"{module} is loaded, wanted the one in {wanted}"
sys.exit(pytest.main(["-q", "--capture=sys", "-p", "no:cacheprovider", "-p", "no:faulthandler", *sys.argv[2:]]))' \
    "$here/build/$name/" "$@")
}

# No leak check: the interpreter itself leaves much behind at its end. No stack frames on the heap: GCC 12
# aligns those to 32 bytes, and stores to its own 64-byte slots in them with instructions that want 64.
export ASAN_OPTIONS="detect_leaks=0:halt_on_error=1:detect_stack_use_after_return=0"
export UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1"
export TSAN_OPTIONS="halt_on_error=1:second_deadlock_stack=1"
