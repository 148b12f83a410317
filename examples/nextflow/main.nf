// Labels of a folder of images by Nextflow, params.chunk images a task.
//
//   nextflow run examples/nextflow/main.nf --images IMAGES --labels LABELS [-with-docker reunet:latest]
//
// `reunet predict` ends with exit code 1 where an image has no label: the others of its task have theirs,
// and LABELS/errors.txt names it. Any other code is a task that failed, is tried once more, and ends the run.

params.images = null
params.labels = null
params.chunk = 50

process PREDICT {
    cpus 2
    errorStrategy { task.attempt < 2 ? 'retry' : 'finish' }
    maxRetries 1
    publishDir params.labels, mode: 'copy', pattern: 'labels/*', saveAs: { name -> file(name).name }

    input:
    path images

    output:
    path 'labels/*_label.tiff', emit: labels, optional: true
    path 'errors.txt', emit: errors

    script:
    """
    OMP_NUM_THREADS=${task.cpus} reunet predict ${images} labels --quiet 2> errors.txt || test \$? -eq 1
    """
}

workflow {
    endings = 'png,jpg,jpeg,bmp,tif,tiff,svs,scn'
    images = Channel.fromPath("${params.images}/*.{${endings},${endings.toUpperCase()}}")
    PREDICT(images.buffer(size: params.chunk as int, remainder: true))
    PREDICT.out.errors.collectFile(name: 'errors.txt', storeDir: params.labels)
}
