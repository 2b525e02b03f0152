// Runs tus-js-client once as the JSON on standard input says, and prints what happened as JSON.
//
//   path, endpoint   the file, and where it goes
//   input            "file" (default), "buffer", or "stream" of a length that nobody knows
//   options          passed on to tus-js-client as they are
//   storage          a file that keeps the addresses of unfinished uploads
//   resume           whether to go on with an upload found there
//   abortAt          number of accepted bytes after which the client gives up
//   terminate        whether giving up takes the upload off the server
import { createReadStream, readFileSync } from 'node:fs'
import { globalAgent } from 'node:http'
import { PassThrough } from 'node:stream'
import { FileUrlStorage, Upload } from 'tus-js-client'

const job = JSON.parse(readFileSync(0, 'utf8'))
const report = { outcome: '', url: '', requests: [], chunks: [], progress: 0, found: 0 }

const openers = {
  file: () => createReadStream(job.path),
  buffer: () => readFileSync(job.path),
  stream: () => createReadStream(job.path).pipe(new PassThrough()),
}

function describe(request, response) {
  return {
    method: request.getMethod(),
    url: request.getURL(),
    sent: Object.fromEntries(
      ['X-Request-ID', 'X-HTTP-Method-Override', 'Upload-Concat', 'Upload-Defer-Length',
        'Upload-Length', 'Upload-Offset', 'Upload-Complete', 'Upload-Draft-Interop-Version', 'Tus-Resumable']
        .map((name) => [name, request.getHeader(name)]).filter(([, value]) => value != null)),
    status: response?.getStatus() ?? 0,
    offset: Number(response?.getHeader('Upload-Offset') ?? -1),
    requestId: response?.getHeader('X-Request-ID') ?? null,
  }
}

function run() {
  return new Promise((resolve) => {
    const end = (outcome, error) => resolve({ outcome, error })
    const upload = new Upload(openers[job.input ?? 'file'](), {
      endpoint: job.endpoint,
      retryDelays: null,
      ...(job.storage ? { urlStorage: new FileUrlStorage(job.storage) } : {}),
      ...job.options,
      onAfterResponse: (request, response) => {
        report.requests.push(describe(request, response))
      },
      onProgress: (sent) => {
        report.progress = Math.max(report.progress, sent)
      },
      onChunkComplete: (size, accepted) => {
        report.chunks.push(size)
        if (job.abortAt && accepted >= job.abortAt) {
          upload.abort(Boolean(job.terminate))
            .then(() => end('aborted'), (error) => end('error', error))
        }
      },
      onSuccess: () => end('success'),
      onError: (error) => end('error', error),
    })
    const start = async () => {
      if (job.resume) {
        const previous = await upload.findPreviousUploads()
        report.found = previous.length
        if (previous.length > 0) upload.resumeFromPreviousUpload(previous[0])
      }
      upload.start()
    }
    start().catch((error) => end('error', error))
    report.getUrl = () => upload.url
  })
}

const { outcome, error } = await run()
report.outcome = outcome
report.url = report.getUrl() ?? ''
report.error = error ? String(error.message ?? error) : null
process.stdout.write(JSON.stringify(report))
globalAgent.destroy() // else idle connections keep this process
