// Labels of a folder of images by Nextflow, params.chunk images a task.
//
//   nextflow run examples/nextflow/main.nf --images IMAGES --labels LABELS [-with-docker reunet:latest]
//
// The exit code of `reunet predict` is 0 where every image has a label; otherwise the task has
// failed, is tried once more, and then ends the run.

params.images = null
params.labels = null
params.chunk = 50

process PREDICT {
    cpus 2
    errorStrategy { task.attempt < 2 ? 'retry' : 'finish' }
    maxRetries 1
    publishDir params.labels, mode: 'copy'

    input:
    path images

    output:
    path 'labels/*_label.tiff'

    script:
    """
    OMP_NUM_THREADS=${task.cpus} reunet predict ${images} labels --quiet
    """
}

workflow {
    Channel.fromPath("${params.images}/*.{png,jpg,jpeg,bmp,tif,tiff,svs,scn}")
        .buffer(size: params.chunk, remainder: true)
        | PREDICT
}
