import { Dialog, type ISessionContext } from '@jupyterlab/apputils';
import type { ITranslator } from '@jupyterlab/translation';

/** The class of our own dialogs. */
export const DEATH_CLASS = 'hyper-Death';

/**
 * Close what JupyterLab itself says of a notebook whose kernel died: *Kernel Restarting* or *Error Starting Kernel*,
 * neither of which says why. There is no setting for it; its dialogs are known by their titles, in its own translation.
 * They may wait behind another dialog, and then they are not drawn yet.
 */
export function hushLab(context: ISessionContext, translator: ITranslator): void {
  const trans = translator.load('jupyterlab');
  const restarting = trans.__('Kernel Restarting');
  const failed = trans.__('Error Starting Kernel');
  const path = context.session?.path ?? '';
  Dialog.tracker.forEach(dialog => {
    const label = dialog.node.ariaLabel ?? '';
    if (dialog.hasClass(DEATH_CLASS)) {
      return;
    }
    if (label.startsWith(restarting) && label.includes(path)) {
      dialog.reject();
    } else if (!label) {
      void dialog.ready.then(() => {
        if (dialog.node.querySelector('.jp-Dialog-header')?.textContent?.trim() === failed) {
          dialog.reject();
        }
      });
    }
  });
}
