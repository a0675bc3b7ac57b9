// A CUDA runtime that does nothing. Preloaded, it stands in for libcudart, libcuda, cuBLAS and what else PyTorch's
// libraries import of CUDA, so that all of PyTorch's own code for CUDA runs where there is no GPU: device memory is the
// host's, copies are made at once, kernels are counted and compute nothing, and whoever waits for the device is named.
//
// Here is what has to answer something. All other functions that PyTorch imports are generated when the library is
// built (runtime.py): they return 0, which is success in every one of CUDA's libraries.
#include <cublasLt.h>
#include <cublas_v2.h>
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <cxxabi.h>
#include <dlfcn.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>

// ------------------------------------------------------------ what is counted
// Made on first use, and never destroyed: PyTorch's libraries register kernels before, and call after, this one's own.

template <class T> static T &kept() { static T *value = new T; return *value; }
struct Counts : std::map<std::string, long> {};
struct Names : std::unordered_map<const void *, std::string> {};  // of kernels, by their handles
struct Pieces : std::map<const char *, std::pair<size_t, cudaMemoryType>> {};  // memory that was given out

static std::mutex mutex;
static void (*told)(const char *);  // of each wait, in the thread that waits
static std::atomic<size_t> last_handle{0x1000};
template <class T> static void handle(T *made) { *made = (T)(last_handle += 64); }  // no two are the same; none is read

static void count(const std::string &name) { std::lock_guard<std::mutex> guard(mutex); kept<Counts>()[name]++; }
static void waits(const std::string &name) { count(name); if (told) told(name.c_str()); }

extern "C" {
void nullcuda_on_wait(void (*callback)(const char *)) { told = callback; }
// What was counted since the last call: "number\tname\n" for each. Returns its length.
int nullcuda_take(char *out, int room) {
  std::lock_guard<std::mutex> guard(mutex);
  std::string text;
  for (auto &[name, number] : kept<Counts>()) text += std::to_string(number) + "\t" + name + "\n";
  kept<Counts>().clear();
  out[text.copy(out, room - 1)] = 0;
  return text.size();
}
}

// ------------------------------------------------------------ CUDA graphs
// One recording at a time. It takes kernels in without running them; and as CUDA does, it refuses to wait for its stream
// or for all of the device, after which it cannot be ended well.

static cudaStream_t recording;
static bool refused;
static unsigned long long recordings;
static size_t recorded;
static thread_local cudaError_t last_error = cudaSuccess;

static cudaError_t fails(cudaError_t error) { return last_error = error; }
static bool refuses() { return recording && (refused = true); }
static bool refuses(cudaStream_t s) { return recording && s == recording && refuses(); }

extern "C" void nullcuda_kernel(const char *name) {
  if (recording) recorded++;
  count((recording ? "recorded " : "kernel ") + std::string(name));
}
static void kernel(const void *handle) {
  std::string name;
  { std::lock_guard<std::mutex> guard(mutex); name = kept<Names>()[handle]; }
  int status;
  char *plain = abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status);
  nullcuda_kernel(plain ? std::string(plain).substr(0, 160).c_str() : name.c_str());
  free(plain);
}

extern "C" {
cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode) {
  recording = s, refused = false, recorded = 0, recordings++;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *graph) {
  recording = nullptr;
  handle(graph);
  return refused ? fails(cudaErrorStreamCaptureInvalidated) : cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t s, cudaStreamCaptureStatus *status) {
  *status = !recording || s != recording ? cudaStreamCaptureStatusNone
            : refused                    ? cudaStreamCaptureStatusInvalidated
                                         : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t s, cudaStreamCaptureStatus *status, unsigned long long *id,
                                     cudaGraph_t *graph, const cudaGraphNode_t **, const cudaGraphEdgeData **,
                                     size_t *edges) {
  if (id) *id = recordings;  // PyTorch's allocator tells recordings apart by it
  if (graph) handle(graph);
  if (edges) *edges = 0;
  return cudaStreamIsCapturing(s, status);
}
CUresult cuStreamIsCapturing(CUstream s, CUstreamCaptureStatus *status) {
  return (CUresult)cudaStreamIsCapturing(s, (cudaStreamCaptureStatus *)status);
}
cudaError_t cudaGraphGetNodes(cudaGraph_t, cudaGraphNode_t *, size_t *n) { *n = recorded; return cudaSuccess; }
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *e, cudaGraph_t, unsigned long long) { handle(e); return cudaSuccess; }
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *e, cudaGraph_t, unsigned long long) {
  handle(e);
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t) { count("cudaGraphLaunch"); return cudaSuccess; }
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode *) { return cudaSuccess; }

// ------------------------------------------------------------ devices
// As many as NULLCUDA_DEVICES says, each an H100: PyTorch and Triton choose kernels, sizes and bfloat16 by what it can.

static thread_local int current;

cudaError_t cudaGetDeviceCount(int *n) {
  const char *wanted = getenv("NULLCUDA_DEVICES");
  *n = wanted ? atoi(wanted) : 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int *device) { *device = current; return cudaSuccess; }
cudaError_t cudaSetDevice(int device) {
  int n;
  cudaGetDeviceCount(&n);
  if (device >= n) return fails(cudaErrorInvalidDevice);
  current = device;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int) {
  static const auto &h100 = *new std::map<int, int>{
      {cudaDevAttrComputeCapabilityMajor, 9}, {cudaDevAttrMultiProcessorCount, 132}, {cudaDevAttrWarpSize, 32},
      {cudaDevAttrMaxThreadsPerBlock, 1024}, {cudaDevAttrMaxThreadsPerMultiProcessor, 2048},
      {cudaDevAttrMaxSharedMemoryPerBlock, 49152}, {cudaDevAttrMaxSharedMemoryPerBlockOptin, 232448},
      {cudaDevAttrMaxSharedMemoryPerMultiprocessor, 233472}, {cudaDevAttrMaxBlocksPerMultiprocessor, 32},
      {cudaDevAttrMaxRegistersPerBlock, 65536}, {cudaDevAttrMaxRegistersPerMultiprocessor, 65536},
      {cudaDevAttrMaxGridDimX, 2147483647}, {cudaDevAttrMaxGridDimY, 65535}, {cudaDevAttrMaxGridDimZ, 65535},
      {cudaDevAttrClockRate, 1980000}, {cudaDevAttrMemoryClockRate, 2619000}, {cudaDevAttrGlobalMemoryBusWidth, 5120},
      {cudaDevAttrL2CacheSize, 50 << 20}, {cudaDevAttrUnifiedAddressing, 1}, {cudaDevAttrCooperativeLaunch, 1}};
  auto found = h100.find(attribute);
  *value = found == h100.end() ? 0 : found->second;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device) {
  *p = {};
  strcpy(p->name, "an H100 that does nothing");
  p->totalGlobalMem = 80ull << 30, p->totalConstMem = 65536, p->memoryPoolsSupported = p->concurrentKernels = 1;
  p->asyncEngineCount = 3, p->textureAlignment = 512, p->reservedSharedMemPerBlock = 1024, p->managedMemory = 1;
  p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024, p->maxThreadsDim[2] = 64;
  auto same = [device](auto &field, cudaDeviceAttr attribute) {
    int value;
    cudaDeviceGetAttribute(&value, attribute, device);
    field = value;
  };
  same(p->major, cudaDevAttrComputeCapabilityMajor), same(p->multiProcessorCount, cudaDevAttrMultiProcessorCount);
  same(p->warpSize, cudaDevAttrWarpSize), same(p->maxThreadsPerBlock, cudaDevAttrMaxThreadsPerBlock);
  same(p->maxThreadsPerMultiProcessor, cudaDevAttrMaxThreadsPerMultiProcessor);
  same(p->maxBlocksPerMultiProcessor, cudaDevAttrMaxBlocksPerMultiprocessor);
  same(p->sharedMemPerBlock, cudaDevAttrMaxSharedMemoryPerBlock);
  same(p->sharedMemPerBlockOptin, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  same(p->sharedMemPerMultiprocessor, cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  same(p->regsPerBlock, cudaDevAttrMaxRegistersPerBlock);
  same(p->regsPerMultiprocessor, cudaDevAttrMaxRegistersPerMultiprocessor);
  same(p->maxGridSize[0], cudaDevAttrMaxGridDimX), same(p->maxGridSize[1], cudaDevAttrMaxGridDimY);
  same(p->maxGridSize[2], cudaDevAttrMaxGridDimZ), same(p->memoryBusWidth, cudaDevAttrGlobalMemoryBusWidth);
  same(p->l2CacheSize, cudaDevAttrL2CacheSize), same(p->unifiedAddressing, cudaDevAttrUnifiedAddressing);
  same(p->cooperativeLaunch, cudaDevAttrCooperativeLaunch);
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *v) { *v = CUDA_VERSION; return cudaSuccess; }  // of the headers: PyTorch's own
cudaError_t cudaRuntimeGetVersion(int *v) { *v = CUDA_VERSION; return cudaSuccess; }
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
  *least = 0, *greatest = -5;
  return cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int *can, int, int) { *can = 0; return cudaSuccess; }
cudaError_t cudaDeviceGetPCIBusId(char *s, int room, int device) {
  snprintf(s, room, "0000:%02x:00.0", device);
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *free, size_t *total) { *free = 75ull << 30, *total = 80ull << 30; return cudaSuccess; }
cudaError_t cudaGetLastError() { cudaError_t error = last_error; last_error = cudaSuccess; return error; }
cudaError_t cudaPeekAtLastError() { return last_error; }
const char *cudaGetErrorName(cudaError_t error) {
  static thread_local std::string text;
  return (text = "error " + std::to_string(error) + " of the runtime that does nothing").c_str();
}
const char *cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorStreamCaptureUnsupported ? "operation not permitted when stream is capturing"
                                                    : cudaGetErrorName(error);
}
}

// ------------------------------------------------------------ memory
// Which kind a piece is decides whether a copy waits, so each is remembered. All of it holds zeros at first: what reads
// a number that no kernel has computed then finds one without effect (no overflow in GradScaler's, say).

static cudaError_t give(void **made, size_t size, cudaMemoryType kind) {
  *made = size ? aligned_alloc(4096, (size + 4095) / 4096 * 4096) : nullptr;
  if (!*made) return size ? fails(cudaErrorMemoryAllocation) : cudaSuccess;
  if (size < 64 << 20) memset(*made, 0, size);  // the system gives larger ones as zeros, page by page as they are used
  std::lock_guard<std::mutex> guard(mutex);
  kept<Pieces>()[(const char *)*made] = {size, kind};
  return cudaSuccess;
}
static void forget(const void *p) { std::lock_guard<std::mutex> guard(mutex); kept<Pieces>().erase((const char *)p); }
static cudaError_t take(void *p) { forget(p); free(p); return cudaSuccess; }
static cudaMemoryType kind_of(const void *pointer) {
  std::lock_guard<std::mutex> guard(mutex);
  auto after = kept<Pieces>().upper_bound((const char *)pointer);
  if (after == kept<Pieces>().begin()) return cudaMemoryTypeUnregistered;
  auto &[begin, piece] = *--after;
  return (const char *)pointer < begin + piece.first ? piece.second : cudaMemoryTypeUnregistered;
}
static cudaError_t copy(void *to, const void *from, size_t size, cudaStream_t *stream) {  // nullptr: at once
  static const char *const kinds[] = {"pageable", "pinned", "device", "managed"};
  auto source = kind_of(from), target = kind_of(to);
  bool pageable = source == cudaMemoryTypeUnregistered || target == cudaMemoryTypeUnregistered;
  if (stream ? pageable && refuses(*stream) : refuses()) return fails(cudaErrorStreamCaptureUnsupported);
  std::string name = std::string("copy ") + kinds[source] + " to " + kinds[target];
  // To pageable memory, CUDA copies at once, however it is asked.
  if (!stream || target == cudaMemoryTypeUnregistered) waits(name); else count(name);
  if (source != cudaMemoryTypeDevice || target != cudaMemoryTypeDevice) memcpy(to, from, size);
  return cudaSuccess;
}

extern "C" {
cudaError_t cudaMalloc(void **p, size_t size) { count("cudaMalloc"); return give(p, size, cudaMemoryTypeDevice); }
cudaError_t cudaMallocHost(void **p, size_t size) { count("cudaHostAlloc"); return give(p, size, cudaMemoryTypeHost); }
cudaError_t cudaHostAlloc(void **p, size_t size, unsigned) { return cudaMallocHost(p, size); }
cudaError_t cudaFree(void *p) { if (p) waits("cudaFree"); return take(p); }  // both wait for the whole device
cudaError_t cudaFreeHost(void *p) { if (p) waits("cudaFreeHost"); return take(p); }
cudaError_t cudaHostRegister(void *p, size_t size, unsigned) {
  std::lock_guard<std::mutex> guard(mutex);
  kept<Pieces>()[(const char *)p] = {size, cudaMemoryTypeHost};
  return cudaSuccess;
}
cudaError_t cudaHostUnregister(void *p) { forget(p); return cudaSuccess; }
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *a, const void *p) {
  *a = {};
  a->type = kind_of(p);
  a->device = a->type == cudaMemoryTypeUnregistered ? -1 : current;
  a->devicePointer = a->type == cudaMemoryTypeUnregistered ? nullptr : (void *)p;
  a->hostPointer = a->type == cudaMemoryTypeHost ? (void *)p : nullptr;
  return cudaSuccess;
}
CUresult cuPointerGetAttribute(void *value, CUpointer_attribute attribute, CUdeviceptr p) {  // Triton's launcher asks
  if (attribute == CU_POINTER_ATTRIBUTE_DEVICE_POINTER) *(CUdeviceptr *)value = p; else *(int *)value = 0;
  return CUDA_SUCCESS;
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t size, cudaMemcpyKind) { return copy(to, from, size, nullptr); }
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, cudaMemcpyKind, cudaStream_t s) {
  return copy(to, from, size, &s);
}
cudaError_t cudaMemcpyPeerAsync(void *to, int, const void *from, int, size_t size, cudaStream_t s) {
  return copy(to, from, size, &s);
}
cudaError_t cudaMemset(void *p, int value, size_t size) { memset(p, value, size); return cudaSuccess; }
cudaError_t cudaMemsetAsync(void *p, int value, size_t size, cudaStream_t) { return cudaMemset(p, value, size); }

// ------------------------------------------------------------ streams and events
// All work is done when it is given, so every event is ready. Waiting for one is counted all the same.

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned, int) { handle(s); return cudaSuccess; }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned) { handle(s); return cudaSuccess; }
cudaError_t cudaStreamCreate(cudaStream_t *s) { handle(s); return cudaSuccess; }
cudaError_t cudaStreamGetPriority(cudaStream_t, int *priority) { *priority = 0; return cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned) { handle(e); return cudaSuccess; }
cudaError_t cudaEventCreate(cudaEvent_t *e) { handle(e); return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t, cudaEvent_t) { *ms = 1; return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t s) {
  if (refuses(s)) return fails(cudaErrorStreamCaptureUnsupported);
  waits("cudaStreamSynchronize");
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  if (refuses()) return fails(cudaErrorStreamCaptureUnsupported);
  waits("cudaDeviceSynchronize");
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { waits("cudaEventSynchronize"); return cudaSuccess; }
cudaError_t cudaLaunchHostFunc(cudaStream_t, cudaHostFn_t work, void *data) { work(data); return cudaSuccess; }
cudaError_t cudaStreamAddCallback(cudaStream_t s, cudaStreamCallback_t work, void *data, unsigned) {
  work(s, cudaSuccess, data);
  return cudaSuccess;
}

// ------------------------------------------------------------ kernels
// nvcc's code registers each kernel's name at start, and launches it by the address that it registered it with, after it
// has pushed and popped the sizes of blocks, which nobody looks at here.

void **__cudaRegisterFatBinary(void *) { static void *handles[4]; return handles; }
char __cudaInitModule(void **) { return 1; }
void __cudaRegisterFunction(void **, const char *host, char *, const char *name, int, uint3 *, uint3 *, dim3 *, dim3 *,
                            int *) {
  std::lock_guard<std::mutex> guard(mutex);
  kept<Names>()[host] = name;
}
cudaError_t __cudaGetKernel(cudaKernel_t *made, const void *host) { *made = (cudaKernel_t)host; return cudaSuccess; }
cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
  *grid = *block = dim3(1, 1, 1), *shared = 0, *(cudaStream_t *)stream = nullptr;
  return cudaSuccess;
}
cudaError_t cudaLaunchKernel(const void *host, dim3, dim3, void **, size_t, cudaStream_t) {
  kernel(host);
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t made, dim3, dim3, void **, size_t, cudaStream_t) {
  kernel(made);
  return cudaSuccess;
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *, const void *host, void **) {
  kernel(host);
  return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *a, const void *) {
  *a = {};
  a->maxThreadsPerBlock = 1024, a->numRegs = 32, a->maxDynamicSharedSizeBytes = 232448;
  a->binaryVersion = a->ptxVersion = 90;
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *n, const void *, int, size_t) {
  *n = 2;  // PyTorch divides by it
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, const void *f, int, size_t, unsigned) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessor(n, f, 0, 0);
}
cudaError_t cudaGetSymbolAddress(void **p, const void *) { static char room[1 << 16]; *p = room; return cudaSuccess; }

// ------------------------------------------------------------ the driver, which Triton and parts of PyTorch call

cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **found, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult *result) {
  *found = dlsym(RTLD_DEFAULT, name);
  if (result) *result = *found ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}
CUresult cuInit(unsigned) { return CUDA_SUCCESS; }
CUresult cuDriverGetVersion(int *v) { *v = CUDA_VERSION; return CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice *device, int ordinal) { *device = ordinal; return CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int *n) { return (CUresult)cudaGetDeviceCount(n); }
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
  return (CUresult)cudaDeviceGetAttribute(value, (cudaDeviceAttr)attribute, device);  // the same numbers
}
CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
  *context = (CUcontext)(size_t)(device + 1);
  return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxGetState(CUdevice, unsigned *flags, int *active) {
  *flags = 0, *active = 1;
  return CUDA_SUCCESS;
}
CUresult cuCtxGetCurrent(CUcontext *context) { return cuDevicePrimaryCtxRetain(context, current); }
CUresult cuCtxSetCurrent(CUcontext) { return CUDA_SUCCESS; }
CUresult cuCtxGetLimit(size_t *value, CUlimit) { *value = 1 << 20; return CUDA_SUCCESS; }
CUresult cuCtxSetLimit(CUlimit, size_t) { return CUDA_SUCCESS; }
CUresult cuCtxGetDevice(CUdevice *device) { *device = current; return CUDA_SUCCESS; }
CUresult cuGetErrorString(CUresult error, const char **text) {
  *text = cudaGetErrorString((cudaError_t)error);
  return CUDA_SUCCESS;
}
CUresult cuModuleLoad(CUmodule *module, const char *) { handle(module); return CUDA_SUCCESS; }
CUresult cuModuleLoadData(CUmodule *module, const void *) { handle(module); return CUDA_SUCCESS; }
CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }
CUresult cuModuleGetFunction(CUfunction *function, CUmodule, const char *name) {
  handle(function);
  std::lock_guard<std::mutex> guard(mutex);
  kept<Names>()[*function] = name;
  return CUDA_SUCCESS;
}
CUresult cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction) {  // Triton: registers and spills
  *value = attribute == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : attribute == CU_FUNC_ATTRIBUTE_NUM_REGS ? 32 : 0;
  return CUDA_SUCCESS;
}
CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) { return CUDA_SUCCESS; }
CUresult cuFuncSetCacheConfig(CUfunction, CUfunc_cache) { return CUDA_SUCCESS; }
CUresult cuLaunchKernel(CUfunction f, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream,
                        void **, void **) {
  kernel(f);
  return CUDA_SUCCESS;
}
CUresult cuLaunchKernelEx(const CUlaunchConfig *, CUfunction f, void **, void **) { kernel(f); return CUDA_SUCCESS; }
CUresult cuOccupancyMaxActiveClusters(int *n, CUfunction, const CUlaunchConfig *) { *n = 16; return CUDA_SUCCESS; }

// ------------------------------------------------------------ cuBLAS
// Matrices are multiplied by one kernel each (runtime.py). PyTorch takes the first algorithm that it is offered.

cublasStatus_t cublasCreate_v2(cublasHandle_t *made) { handle(made); return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasGetMathMode(cublasHandle_t, cublasMath_t *m) { *m = CUBLAS_DEFAULT_MATH; return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasGetPointerMode_v2(cublasHandle_t, cublasPointerMode_t *m) {
  *m = CUBLAS_POINTER_MODE_HOST;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *made, cublasComputeType_t, cudaDataType_t) {
  handle(made);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *made, cudaDataType, uint64_t, uint64_t, int64_t) {
  handle(made);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *made) {
  handle(made);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatmulPreference_t, int, cublasLtMatmulHeuristicResult_t *found,
                                              int *number) {
  *found = {}, *number = 1;
  return CUBLAS_STATUS_SUCCESS;
}
}
