//! The GPU as the operations see it: memory, launches of our kernels, matrix products. The one
//! place of this engine with `unsafe`.
//!
//! Everything runs on one stream, in the order of the calls: memory that is dropped is freed after
//! the kernels that read it. Tensors are dfdx's. dfdx 0.13 keeps their memory private, but its
//! gradients lend theirs, and the address of a tensor is in its debug text.
#![allow(unsafe_code)]

mod launch;
mod operand;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::rc::Rc;
use std::sync::Arc;

use cudarc::cublas::{CudaBlas, result as cublas, sys as cublas_sys};
use cudarc::driver::{CudaDevice, CudaSlice, DeviceRepr, ValidAsZeroBits, result as driver, sys};
use dfdx::prelude::*;

pub(super) use self::launch::{Address, Argument, Grid, arguments};
pub(super) use self::operand::{Factor, Format, Operand, Store};
use super::kernels;
use crate::engine::{Act, Angles, device_error};
use crate::fact::memory;
use crate::{Fact, ModelError};

/// Results of the driver and of cuBLAS, as dfdx's tape wants them.
pub(super) type Result<T> = std::result::Result<T, CudaError>;

/// The memory of a tensor or gradient.
type TensorMemory = <Cuda as Storage<f32>>::Vec;

/// Indices, and the same on the device.
type IndexList = (Vec<u32>, Rc<CudaSlice<u32>>);

/// Angles, kept alive so that no others can have their address, and their cosines and sines on the
/// device.
type KnownAngles = (Angles, [Rc<CudaSlice<f32>>; 2]);

/// A gradient that has been taken out of dfdx's store; freed when it is dropped.
pub(super) struct Taken {
    owner: Gradients<f32, Cuda>,
    name: Tensor<Rank0, f32, Cuda>,
}

impl Taken {
    pub(super) fn address(&mut self) -> Result<Address> {
        Ok(Address::of_gradient(
            self.owner.get_or_alloc_mut(&self.name)?,
        ))
    }

    /// Puts it in the place of a gradient whose zeros nobody has added to yet.
    pub(super) fn move_to(mut self, slot: &mut TensorMemory) -> Result<()> {
        std::mem::swap(self.owner.get_or_alloc_mut(&self.name)?, slot);
        Ok(())
    }
}

/// Takes the gradient of an operation's output out of the store, to be freed by the operation that
/// consumes it.
macro_rules! take_gradient {
    ($gpu:expr, $gradients:expr, $tensor:expr) => {
        $gpu.take($gradients.get_or_alloc_mut(&$tensor)?)?
    };
}
pub(super) use take_gradient;

/// A device with our kernels on it.
pub(super) struct Gpu {
    cuda: Cuda,
    device: Arc<CudaDevice>,
    blas: CudaBlas,
    module: sys::CUmodule,
    functions: BTreeMap<&'static str, sys::CUfunction>,
    /// 0 and 1, for products whose factor is on the device.
    zero_and_one: CudaSlice<f32>,
    /// How products of f32 are computed.
    compute: cublas_sys::cublasComputeType_t,
    /// A tensor of one value, which names what [`Taken`] owns.
    name: Tensor<Rank0, f32, Cuda>,
    /// Angles of rotary embedding that were used last: all layers of a pass turn by the same ones.
    angles: RefCell<Option<KnownAngles>>,
    /// Index lists that were used last: all layers of a pass read the same ones.
    lists: RefCell<Vec<IndexList>>,
}

impl Gpu {
    /// Most index lists that are kept.
    const N_LISTS: usize = 16;

    /// The first GPU. `tensor_cores` lets products of f32 round their operands to TF32.
    pub(super) fn new(tensor_cores: bool) -> std::result::Result<Self, ModelError> {
        Self::with_device(open()?, tensor_cores)
            .map_err(device_error)?
            .with_kernels()
    }

    fn with_device(cuda: Cuda, tensor_cores: bool) -> Result<Self> {
        let name: Tensor<Rank0, f32, Cuda> = cuda.try_zeros()?;
        // A gradient of dfdx lends its memory, and that knows its device.
        let device = Gradients::leaky().get_or_alloc_mut(&name)?.device();
        keep_freed_memory(&device)?;
        let compute = if tensor_cores {
            cublas_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32
        } else {
            cublas_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F
        };
        Ok(Self {
            blas: CudaBlas::new(device.clone())?,
            zero_and_one: device.htod_copy(vec![0.0, 1.0])?,
            cuda,
            device,
            module: std::ptr::null_mut(),
            functions: BTreeMap::new(),
            compute,
            name,
            angles: RefCell::default(),
            lists: RefCell::default(),
        })
    }

    /// Compiles all kernels for this device and finds each by its name.
    fn with_kernels(mut self) -> std::result::Result<Self, ModelError> {
        let ptx = kernels::compile(self.compute_capability()?)?;
        let ptx =
            CString::new(ptx).map_err(|_| ModelError::Device("PTX with a zero byte".to_owned()))?;
        // SAFETY: the image is a C string that lives until the driver has read it.
        self.module =
            unsafe { driver::module::load_data(ptx.as_ptr().cast()) }.map_err(device_error)?;
        for name in kernels::names() {
            let c_name = CString::new(name).expect("names of kernels have no zero byte");
            // SAFETY: the module has just been loaded, and is unloaded when this value is dropped.
            let function = unsafe { driver::module::get_function(self.module, c_name) };
            let function =
                function.map_err(|error| ModelError::Device(format!("kernel {name}: {error}")))?;
            self.functions.insert(name, function);
        }
        Ok(self)
    }

    fn device_name(&self) -> Result<String> {
        let mut name = [0u8; 256];
        let length = name.len() as i32;
        // SAFETY: the driver writes at most so many bytes, a zero last.
        unsafe {
            sys::cuDeviceGetName(name.as_mut_ptr().cast(), length, *self.device.cu_device())
                .result()?;
        }
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(name).into_owned())
    }

    /// Major and minor number, as 9 and 0.
    fn compute_capability(&self) -> std::result::Result<(i32, i32), ModelError> {
        use sys::CUdevice_attribute::{
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
        };
        let read = |attribute| {
            let value = self.device.attribute(attribute);
            value.map_err(device_error)
        };
        Ok((read(MAJOR)?, read(MINOR)?))
    }

    /// A tensor of `n_rows` x `n_cols` values, which the caller writes.
    ///
    /// dfdx makes tensors only of zeros or from the host.
    pub(super) fn tensor(&self, n_rows: usize, n_cols: usize) -> Result<Act<Cuda>> {
        self.cuda.try_zeros_like(&(n_rows, n_cols))
    }

    /// A tensor of these values, `[n_rows, n_cols]`.
    pub(super) fn upload(
        &self,
        values: Vec<f32>,
        n_rows: usize,
        n_cols: usize,
    ) -> Result<Act<Cuda>> {
        self.cuda.try_tensor_from_vec(values, (n_rows, n_cols))
    }

    /// A tensor of one value.
    pub(super) fn scalar(&self, value: f32) -> Result<Tensor<Rank0, f32, Cuda>> {
        self.cuda.try_tensor(value)
    }

    /// Memory with arbitrary contents.
    pub(super) fn scratch<E: DeviceRepr>(&self, len: usize) -> Result<CudaSlice<E>> {
        // SAFETY: every type used here is a number, for which all bits are valid, and kernels write
        // before they read.
        Ok(unsafe { self.device.alloc(len.max(1)) }?)
    }

    pub(super) fn zeros<E: DeviceRepr + ValidAsZeroBits>(
        &self,
        len: usize,
    ) -> Result<CudaSlice<E>> {
        Ok(self.device.alloc_zeros(len.max(1))?)
    }

    /// Memory with these values.
    pub(super) fn copied<E: DeviceRepr + Unpin>(&self, values: Vec<E>) -> Result<CudaSlice<E>> {
        // Not `htod_copy`, which keeps the host's copy, too.
        Ok(self.device.htod_sync_copy(&values)?)
    }

    /// Indices on the device. Lists that were used lately are there already.
    pub(super) fn indices(&self, values: &[u32]) -> Result<Rc<CudaSlice<u32>>> {
        let mut lists = self.lists.borrow_mut();
        if let Some(at) = lists.iter().position(|(known, _)| known == values) {
            let found = lists.remove(at);
            let on_device = found.1.clone();
            lists.push(found);
            return Ok(on_device);
        }
        let on_device = Rc::new(self.copied(values.to_vec())?);
        if lists.len() == Self::N_LISTS {
            lists.remove(0);
        }
        lists.push((values.to_vec(), on_device.clone()));
        Ok(on_device)
    }

    /// Cosines and sines on the device.
    pub(super) fn angles(&self, angles: &Angles) -> Result<[Rc<CudaSlice<f32>>; 2]> {
        let mut known = self.angles.borrow_mut();
        if let Some((same, on_device)) = known.as_ref()
            && Arc::ptr_eq(&same.cos, &angles.cos)
            && Arc::ptr_eq(&same.sin, &angles.sin)
        {
            return Ok(on_device.clone());
        }
        let upload = |values: &[f32]| Ok::<_, CudaError>(Rc::new(self.copied(values.to_vec())?));
        let on_device = [upload(&angles.cos)?, upload(&angles.sin)?];
        *known = Some((angles.clone(), on_device.clone()));
        Ok(on_device)
    }

    /// Writes `values` to a tensor.
    pub(super) fn write(&self, tensor: &Act<Cuda>, values: &[f32]) -> Result<()> {
        let (n_rows, n_cols) = *tensor.shape();
        assert_eq!(values.len(), n_rows * n_cols, "values of a tensor");
        self.device.bind_to_thread()?;
        // SAFETY: the tensor has as many values, and lives until the copy has ended.
        unsafe { driver::memcpy_htod_sync(Address::of_tensor(tensor).0, values) }?;
        Ok(())
    }

    /// `len` values from `at` on; waits for everything that was launched.
    pub(super) fn read(&self, at: Address, len: usize) -> Result<Vec<f32>> {
        let mut values = vec![0.0; len];
        self.device.bind_to_thread()?;
        // SAFETY: callers pass places with `len` values; the stream is the default one, which the
        // copy waits for.
        unsafe { driver::memcpy_dtoh_sync(&mut values, at.0) }?;
        Ok(values)
    }

    /// Waits for everything that was launched.
    pub(super) fn wait(&self) -> Result<()> {
        Ok(self.device.synchronize()?)
    }

    /// Takes a gradient's memory; what is left in the store is a single value.
    pub(super) fn take(&self, slot: &mut TensorMemory) -> Result<Taken> {
        let mut owner = Gradients::leaky();
        std::mem::swap(owner.get_or_alloc_mut(&self.name)?, slot);
        Ok(Taken {
            owner,
            name: self.name.clone(),
        })
    }

    /// Copies the values of one tensor to another of the same shape.
    pub(super) fn copy(&self, from: &Act<Cuda>, to: &Act<Cuda>) -> Result<()> {
        assert_eq!(from.shape(), to.shape(), "shapes of a copy");
        let n_bytes = from.shape().num_elements() * size_of::<f32>();
        let (from, to) = (Address::of_tensor(from), Address::of_tensor(to));
        self.device.bind_to_thread()?;
        // SAFETY: both tensors have so many bytes, and free them after the copy on the one stream.
        unsafe { driver::memcpy_dtod_async(to.0, from.0, n_bytes, *self.device.cu_stream()) }?;
        Ok(())
    }

    /// `x *= a factor`, for a factor on the device.
    pub(super) fn scale(
        &self,
        (x, n): (&CudaSlice<f32>, usize),
        a: f32,
        factor: Address,
    ) -> Result<()> {
        self.launch(
            "scale_by",
            Grid::elements(n),
            arguments![n, a, factor, Address::of(x)],
        )
    }

    /// `y += a factor x`, for a factor on the device.
    pub(super) fn add_scaled(
        &self,
        (x, n): (&CudaSlice<f32>, usize),
        a: f32,
        factor: Address,
        y: Address,
    ) -> Result<()> {
        self.launch(
            "add_scaled",
            Grid::elements(n),
            arguments![n, a, factor, Address::of(x), y],
        )
    }

    /// Starts a kernel. Nothing is started for no elements.
    pub(super) fn launch(
        &self,
        name: &'static str,
        grid: Grid,
        arguments: &[Argument],
    ) -> Result<()> {
        let (x, y) = grid.blocks;
        if x == 0 || y == 0 {
            return Ok(());
        }
        assert!(y < 65536, "{name}: a grid of {x} x {y} blocks");
        let function = self.functions[name];
        let mut bits: Vec<u64> = arguments.iter().map(|argument| argument.bits()).collect();
        let mut pointers: Vec<*mut c_void> = bits
            .iter_mut()
            .map(|bits| (&raw mut *bits).cast())
            .collect();
        self.device.bind_to_thread()?;
        // SAFETY: the function belongs to the loaded module; the arguments have the types of its
        // parameters, which the driver copies before it returns, and point to memory whose owner
        // outlives the launch on this one stream.
        unsafe {
            driver::launch_kernel(
                function,
                (x, y, 1),
                (grid.threads.0, grid.threads.1, 1),
                0,
                *self.device.cu_stream(),
                &mut pointers,
            )
        }?;
        Ok(())
    }

    /// `out[m, n] = factor * a[m, k] b[k, n]`, or adds it to what is there.
    pub(super) fn product(
        &self,
        shape: (usize, usize, usize),
        a: Operand,
        b: Operand,
        factor: Factor,
        out: Address,
        into: Store,
    ) -> Result<()> {
        self.products(1, shape, a, b, factor, out, into)
    }

    /// The same for a batch of matrices, one behind the other.
    pub(super) fn products(
        &self,
        n_products: usize,
        (m, n, k): (usize, usize, usize),
        a: Operand,
        b: Operand,
        factor: Factor,
        out: Address,
        into: Store,
    ) -> Result<()> {
        if n_products == 0 || m == 0 || n == 0 {
            return Ok(());
        }
        let int =
            |n: usize| i32::try_from(n).expect("a matrix of fewer than 2^31 rows and columns");
        let add = into == Store::Add;
        let beta = f32::from(u8::from(add));
        type Number = *const c_void;
        let (alpha, beta, mode): (Number, Number, _) = match &factor {
            Factor::Host(factor) => (
                (&raw const *factor).cast(),
                (&raw const beta).cast(),
                cublas_sys::cublasPointerMode_t::CUBLAS_POINTER_MODE_HOST,
            ),
            Factor::Device(factor) => (
                factor.0 as Number,
                Address::of(&self.zero_and_one)
                    .offset::<f32>(usize::from(add))
                    .0 as Number,
                cublas_sys::cublasPointerMode_t::CUBLAS_POINTER_MODE_DEVICE,
            ),
        };
        self.device.bind_to_thread()?;
        // SAFETY: the handle is alive. cuBLAS counts columns first, so the row-major product is
        // that of the transposes in the other order: out^T[n, m] = b^T a^T, whose leading
        // dimensions are our numbers of columns. Addresses lead to memory of these extents, which
        // callers keep until after the call on the one stream; the factors are read before the call
        // returns, or lie on the device.
        unsafe {
            cublas_sys::cublasSetPointerMode_v2(*self.blas.handle(), mode).result()?;
            cublas::gemm_strided_batched_ex(
                *self.blas.handle(),
                b.operation(),
                a.operation(),
                int(n),
                int(m),
                int(k),
                alpha,
                b.at.0 as Number,
                b.data_type(),
                int(b.columns),
                b.stride as i64,
                a.at.0 as Number,
                a.data_type(),
                int(a.columns),
                a.stride as i64,
                beta,
                out.0 as *mut c_void,
                cublas_sys::cudaDataType_t::CUDA_R_32F,
                int(n),
                (m * n) as i64,
                int(n_products),
                if a.format == Format::F16 {
                    cublas_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F
                } else {
                    self.compute
                },
                cublas_sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }?;
        Ok(())
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if !self.module.is_null() {
            // SAFETY: loaded by `with_kernels` and unloaded only here. A device that has failed
            // cannot unload either, and its memory goes with the process.
            let _ = unsafe { driver::module::unload(self.module) };
        }
    }
}

/// dfdx's first GPU. It would panic where there is no driver or none that knows a device.
pub(super) fn open() -> std::result::Result<Cuda, ModelError> {
    let count = driver::init().and_then(|()| driver::device::get_count());
    match count {
        Ok(0) => Err(ModelError::Device("the driver knows no GPU".to_owned())),
        Ok(_) => Cuda::try_build(0, 0).map_err(device_error),
        Err(error) => Err(device_error(error)),
    }
}

/// What the driver says of itself and of the first GPU, and whether our kernels work there. Ends
/// where nothing more can be asked.
pub(super) fn facts() -> Vec<Fact> {
    let mut facts = vec![Fact::new("CUDA of the driver", driver_version())];
    let cuda = match open() {
        Ok(cuda) => cuda,
        Err(error) => {
            facts.push(Fact::new("GPU", Err(error.to_string())));
            return facts;
        }
    };
    let text = |error: CudaError| device_error(error).to_string();
    let gpu = match Gpu::with_device(cuda, false) {
        Ok(gpu) => gpu,
        Err(error) => {
            facts.push(Fact::new("GPU", Err(text(error))));
            return facts;
        }
    };
    let name = gpu.device_name().map_err(text);
    facts.push(Fact::new("GPU", name));
    let sizes = driver::mem_get_info().map(|(free, total)| memory(total as u64, free as u64));
    let sizes = sizes.map_err(|error| text(error.into()));
    facts.push(Fact::new("memory", sizes));
    let capability = gpu.compute_capability();
    let capability = capability.map(|(major, minor)| format!("{major}.{minor}"));
    let capability = capability.map_err(|error| error.to_string());
    facts.push(Fact::new("compute capability", capability));
    let loaded = gpu.with_kernels();
    let loaded = loaded.map(|gpu| format!("{} compiled and loaded", gpu.functions.len()));
    facts.push(Fact::new(
        "our kernels",
        loaded.map_err(|error| error.to_string()),
    ));
    facts
}

/// The newest CUDA that the driver knows, as "13.0".
fn driver_version() -> std::result::Result<String, String> {
    let mut version = 0;
    // SAFETY: the driver writes a number; this may be asked before anything else.
    let asked = unsafe { sys::cuDriverGetVersion(&raw mut version) }.result();
    match asked {
        Ok(()) => Ok(format!("{}.{}", version / 1000, version % 1000 / 10)),
        Err(error) => Err(device_error(error).to_string()),
    }
}

/// Freed memory stays with the process: without, the driver gives it back at every wait, and asks
/// for it again in the next step. dfdx's own cache keeps memory by exact size, of which ragged
/// batches have ever new ones.
fn keep_freed_memory(device: &CudaDevice) -> Result<()> {
    use sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED as POOLS;
    if device.attribute(POOLS)? == 0 {
        return Ok(());
    }
    let mut pool = std::ptr::null_mut();
    let mut threshold = u64::MAX;
    // SAFETY: the driver writes a handle into `pool`, and reads a 64-bit number from `threshold`.
    unsafe {
        sys::cuDeviceGetDefaultMemPool(&raw mut pool, *device.cu_device()).result()?;
        sys::cuMemPoolSetAttribute(
            pool,
            sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
            (&raw mut threshold).cast(),
        )
        .result()?;
    }
    Ok(())
}

/// Most bytes of the first GPU that the pool of [`keep_freed_memory`] has lent since the last call;
/// counts anew.
pub(super) fn take_peak_memory() -> Result<u64> {
    const MOST_LENT: sys::CUmemPool_attribute =
        sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
    driver::init()?;
    let device = driver::device::get(0)?;
    let mut pool = std::ptr::null_mut();
    let (mut most, mut anew) = (0u64, 0u64);
    // SAFETY: the driver writes a handle into `pool` and a 64-bit number into `most`, and reads one
    // from `anew`.
    unsafe {
        sys::cuDeviceGetDefaultMemPool(&raw mut pool, device).result()?;
        sys::cuMemPoolGetAttribute(pool, MOST_LENT, (&raw mut most).cast()).result()?;
        sys::cuMemPoolSetAttribute(pool, MOST_LENT, (&raw mut anew).cast()).result()?;
    }
    Ok(most)
}
